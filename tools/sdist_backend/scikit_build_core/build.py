"""Stands in for the build system of a source archive while pip downloads it (setup.sh): tells the
archive's name and version as its PKG-INFO has them, and builds nothing."""

import email
import pathlib


def prepare_metadata_for_build_wheel(directory, config_settings=None):
    text = pathlib.Path("PKG-INFO").read_text()
    fields = email.message_from_string(text)
    folder = pathlib.Path(directory, "{Name}-{Version}.dist-info".format(**dict(fields)))
    folder.mkdir()
    (folder / "METADATA").write_text(text)
    return folder.name
