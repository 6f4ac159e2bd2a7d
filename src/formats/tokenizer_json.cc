#include "formats/tokenizer_json.h"

#include <unordered_set>

#include <fmt/format.h>
#include <simdjson.h>

#include "base/error.h"
#include "base/json_fault.h"
#include "base/mmap.h"
#include "formats/byte_reader.h"

namespace nanoflow {
namespace {

namespace dom = simdjson::dom;

// Ids index a table; a file of n bytes cannot name more than n tokens, so larger ids are lies.
constexpr int64_t kMaxTokenId = int64_t{1} << 24;

class Parser {
 public:
  explicit Parser(const std::string& name) : name_(name) {}

  TokenizerJson parse(std::string_view text) {
    if (text.empty()) fail("invalid JSON: the file is empty");
    dom::parser parser;
    dom::element root;
    if (const auto error = parser.parse(text.data(), text.size()).get(root))
      fail(fmt::format("invalid JSON: {}",
                       find_json_fault(text).value_or(simdjson::error_message(error))));
    text_size_ = static_cast<int64_t>(text.size());
    TokenizerJson out;
    read_model(object_of(root, "the document"), out);
    read_added_tokens(root, out);
    out.normalizer = part(root, "normalizer");
    out.pre_tokenizer = part(root, "pre_tokenizer");
    out.post_processor = part(root, "post_processor");
    out.decoder = part(root, "decoder");
    return out;
  }

 private:
  [[noreturn]] void fail(const std::string& why) const { throw FormatError(name_, one_line(why)); }

  dom::object object_of(dom::element element, std::string_view what) const {
    dom::object object;
    if (element.get(object)) fail(fmt::format("{} is no object", what));
    return object;
  }

  std::string text_of(dom::element element, std::string_view what) const {
    std::string_view text;
    if (element.get(text)) fail(fmt::format("{} is no string", what));
    return std::string(text);
  }

  /// A member that may be absent or null.
  static bool find(dom::object object, std::string_view key, dom::element& out) {
    return !object[key].get(out) && !out.is_null();
  }

  void read_text(dom::object object, std::string_view key, std::string& out) const {
    dom::element element;
    if (find(object, key, element)) out = text_of(element, key);
  }

  void read_bool(dom::object object, std::string_view key, bool& out) const {
    dom::element element;
    if (find(object, key, element) && element.get(out)) fail(fmt::format("{} is no boolean", key));
  }

  int32_t id_of(dom::element element, std::string_view token) const {
    int64_t id = 0;
    if (element.get(id) || id < 0 || id > kMaxTokenId || id > text_size_)
      fail(fmt::format("token \"{}\" has a bad id", token));
    return static_cast<int32_t>(id);
  }

  void read_model(dom::object root, TokenizerJson& out) const {
    dom::element element;
    if (!find(root, "model", element)) fail("has no model");
    const dom::object model = object_of(element, "model");
    read_text(model, "type", out.model_type);
    dom::element merges;
    const bool has_merges = find(model, "merges", merges);
    if (out.model_type.empty() && has_merges)
      out.model_type = "BPE";  // files before types were written
    if (out.model_type != "BPE") return;
    read_text(model, "unk_token", out.unk_token);
    read_text(model, "continuing_subword_prefix", out.continuing_subword_prefix);
    read_text(model, "end_of_word_suffix", out.end_of_word_suffix);
    read_bool(model, "byte_fallback", out.byte_fallback);
    read_bool(model, "fuse_unk", out.fuse_unk);
    read_bool(model, "ignore_merges", out.ignore_merges);
    if (!find(model, "vocab", element)) fail("model.vocab is missing");
    read_vocab(object_of(element, "model.vocab"), out);
    if (has_merges) read_merges(merges, out);
  }

  void read_vocab(dom::object vocab, TokenizerJson& out) const {
    out.vocab.reserve(vocab.size());
    std::unordered_set<std::string_view> seen;
    seen.reserve(vocab.size());
    for (const auto field : vocab) {
      const auto id = static_cast<size_t>(id_of(field.value, field.key));
      if (!seen.insert(field.key).second) fail(fmt::format("token \"{}\" has two ids", field.key));
      if (id >= out.vocab.size()) out.vocab.resize(id + 1);
      if (!out.vocab[id].empty())
        fail(fmt::format("tokens \"{}\" and \"{}\" share id {}", out.vocab[id], field.key, id));
      out.vocab[id] = std::string(field.key);
    }
  }

  void read_merges(dom::element element, TokenizerJson& out) const {
    dom::array merges;
    if (element.get(merges)) fail("model.merges is no list");
    out.merges.reserve(merges.size());
    for (const dom::element merge : merges) {
      std::string_view text;
      dom::array pair;
      if (!merge.get(text)) {
        const size_t space = text.find(' ');
        if (space == std::string_view::npos || space != text.rfind(' '))
          fail(fmt::format("merge \"{}\" is not of the form \"a b\"", text));
        out.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
      } else if (!merge.get(pair) && pair.size() == 2) {
        out.merges.emplace_back(text_of(pair.at(0).value(), "a merge"),
                                text_of(pair.at(1).value(), "a merge"));
      } else {
        fail("a merge is neither \"a b\" nor [\"a\", \"b\"]");
      }
      if (out.merges.back().first.empty() || out.merges.back().second.empty())
        fail(fmt::format("merge {} has an empty side", out.merges.size() - 1));
    }
  }

  void read_added_tokens(dom::element root, TokenizerJson& out) const {
    dom::element element;
    if (!find(dom::object(root), "added_tokens", element)) return;
    dom::array tokens;
    if (element.get(tokens)) fail("added_tokens is no list");
    for (const dom::element item : tokens) {
      const dom::object object = object_of(item, "an added token");
      AddedToken token;
      read_text(object, "content", token.content);
      if (token.content.empty()) fail("an added token has no content");
      dom::element id;
      if (!find(object, "id", id)) fail(fmt::format("added token \"{}\" has no id", token.content));
      token.id = id_of(id, token.content);
      read_bool(object, "special", token.special);
      read_bool(object, "lstrip", token.lstrip);
      read_bool(object, "rstrip", token.rstrip);
      read_bool(object, "normalized", token.normalized);
      read_bool(object, "single_word", token.single_word);
      out.added_tokens.push_back(std::move(token));
    }
  }

  /// One of the small trees, as Json: through its text, so that base/json.h stays the only
  /// converter.
  Json part(dom::element root, std::string_view key) const {
    dom::element element;
    if (!find(dom::object(root), key, element)) return {};
    const Result<Json> json = parse_json(simdjson::minify(element));
    if (!json.has_value() || !json->is_object()) fail(fmt::format("{} is no object", key));
    return *json;
  }

  const std::string& name_;
  int64_t text_size_ = 0;
};

}  // namespace

TokenizerJson parse_tokenizer_json(std::string_view text, const std::string& name) {
  return Parser(name).parse(text);
}

TokenizerJson read_tokenizer_json(const std::filesystem::path& path) {
  const MappedFile file(path);  // the parser makes the one copy that it needs
  const auto bytes = file.bytes();
  return parse_tokenizer_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                              path.string());
}

}  // namespace nanoflow
