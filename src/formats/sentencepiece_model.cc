#include "formats/sentencepiece_model.h"

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "base/mmap.h"
#include "formats/byte_reader.h"

namespace nanoflow {
namespace {

/// One field of a protocol buffer message (the wire format has four types that are still in use).
struct Field {
  uint32_t number = 0;
  uint32_t wire = 0;
  uint64_t varint = 0;               // wire type 0
  uint32_t fixed32 = 0;              // wire type 5
  std::span<const std::byte> bytes;  // wire type 2
};

constexpr uint32_t kVarint = 0;
constexpr uint32_t kFixed64 = 1;
constexpr uint32_t kBytes = 2;
constexpr uint32_t kFixed32 = 5;

class Message {
 public:
  Message(std::span<const std::byte> bytes, const std::string& name) : in_(bytes, name) {}

  /// False at the end.
  bool next(Field& field) {
    if (in_.remaining() == 0) return false;
    const uint64_t tag = varint();
    field = Field{};
    field.number = static_cast<uint32_t>(tag >> 3);
    field.wire = static_cast<uint32_t>(tag & 7);
    if (field.number == 0 || tag > std::numeric_limits<uint32_t>::max())
      in_.fail("is no SentencePiece model");
    switch (field.wire) {
      case kVarint: field.varint = varint(); break;
      case kFixed64: (void)in_.take(8, "a field"); break;
      case kBytes: field.bytes = in_.take(varint(), "a field"); break;
      case kFixed32: field.fixed32 = in_.read<uint32_t>("a field"); break;
      default: in_.fail("is no SentencePiece model");
    }
    return true;
  }

  /// Throws when `field` is not encoded as its place in the message asks.
  void expect(const Field& field, uint32_t wire, std::string_view what) const {
    if (field.wire != wire)
      in_.fail(fmt::format("is no SentencePiece model: {} has wire type {}", what, field.wire));
  }

  [[noreturn]] void fail(const std::string& why) const { in_.fail(why); }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = in_.read<uint8_t>("a number");
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    in_.fail("is no SentencePiece model");
  }

  ByteReader in_;
};

std::string text_of(const Message& message, const Field& field, std::string_view what) {
  message.expect(field, kBytes, what);
  return {reinterpret_cast<const char*>(field.bytes.data()), field.bytes.size()};
}

/// An enumeration that counts from 1 to `last`.
template <typename Enum>
Enum enum_of(const Message& message, const Field& field, Enum last, std::string_view what) {
  message.expect(field, kVarint, what);
  if (field.varint < 1 || field.varint > static_cast<uint64_t>(last))
    message.fail(fmt::format("{} is {}, which is unknown", what, field.varint));
  return static_cast<Enum>(field.varint);
}

bool bool_of(const Message& message, const Field& field, std::string_view what) {
  message.expect(field, kVarint, what);
  return field.varint != 0;
}

int32_t id_of(const Message& message, const Field& field, std::string_view what) {
  message.expect(field, kVarint, what);
  const auto id = static_cast<int64_t>(field.varint);  // negative numbers are sign-extended
  if (id < -1 || id > std::numeric_limits<int32_t>::max())
    message.fail(fmt::format("{} is {}", what, id));
  return static_cast<int32_t>(id);
}

SentencePiece parse_piece(std::span<const std::byte> bytes, const std::string& name, size_t id) {
  SentencePiece piece;
  Message message(bytes, name);
  for (Field field; message.next(field);) {
    if (field.number == 1) piece.text = text_of(message, field, "a piece");
    if (field.number == 2) {
      message.expect(field, kFixed32, "a piece's score");
      piece.score = std::bit_cast<float>(field.fixed32);
    }
    if (field.number == 3)
      piece.type = enum_of(message, field, SentencePiece::Type::kByte, "a piece's type");
  }
  if (piece.text.empty()) message.fail(fmt::format("piece {} is empty", id));
  if (!std::isfinite(piece.score)) message.fail(fmt::format("piece {} has no finite score", id));
  return piece;
}

void parse_trainer(std::span<const std::byte> bytes, const std::string& name,
                   SentencePieceModel& model) {
  using ModelType = SentencePieceModel::ModelType;
  Message message(bytes, name);
  for (Field field; message.next(field);) {
    switch (field.number) {
      case 3: model.model_type = enum_of(message, field, ModelType::kChar, "model_type"); break;
      case 35: model.byte_fallback = bool_of(message, field, "byte_fallback"); break;
      case 40: model.unk_id = id_of(message, field, "unk_id"); break;
      case 41: model.bos_id = id_of(message, field, "bos_id"); break;
      case 42: model.eos_id = id_of(message, field, "eos_id"); break;
      case 43: model.pad_id = id_of(message, field, "pad_id"); break;
      default: break;
    }
  }
}

void parse_normalizer(std::span<const std::byte> bytes, const std::string& name,
                      SentencePieceModel& model) {
  Message message(bytes, name);
  for (Field field; message.next(field);) {
    switch (field.number) {
      case 1: model.normalizer_name = text_of(message, field, "the normaliser's name"); break;
      case 2:
        message.expect(field, kBytes, "precompiled_charsmap");
        model.has_precompiled_charsmap = !field.bytes.empty();
        break;
      case 3: model.add_dummy_prefix = bool_of(message, field, "add_dummy_prefix"); break;
      case 4:
        model.remove_extra_whitespaces = bool_of(message, field, "remove_extra_whitespaces");
        break;
      case 5: model.escape_whitespaces = bool_of(message, field, "escape_whitespaces"); break;
      default: break;
    }
  }
}

/// What no single field shows.
void check_model(const SentencePieceModel& model, const std::string& name) {
  const auto fail = [&](const std::string& why) { throw FormatError(name, one_line(why)); };
  if (model.pieces.empty()) fail("is no SentencePiece model: it has no pieces");
  const auto count = static_cast<int64_t>(model.pieces.size());
  for (const auto& [key, id] :
       {std::pair("unk_id", model.unk_id), std::pair("bos_id", model.bos_id),
        std::pair("eos_id", model.eos_id), std::pair("pad_id", model.pad_id)})
    if (id >= count) fail(fmt::format("{} is {}, but there are {} pieces", key, id, count));
  // As in SentencePiece, texts that input can match and reserved ones are two name spaces.
  std::array<std::unordered_map<std::string_view, int64_t>, 2> seen;
  seen[1].reserve(model.pieces.size());
  for (int64_t id = 0; id < count; ++id) {
    const SentencePiece& piece = model.pieces[static_cast<size_t>(id)];
    const bool matches = piece.type == SentencePiece::Type::kNormal ||
                         piece.type == SentencePiece::Type::kUserDefined ||
                         piece.type == SentencePiece::Type::kUnused;
    const auto [first, inserted] = seen[matches ? 1 : 0].emplace(piece.text, id);
    if (!inserted)
      fail(fmt::format("pieces {} and {} are both \"{}\"", first->second, id, piece.text));
  }
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::span<const std::byte> bytes,
                                             const std::string& name) {
  SentencePieceModel model;
  Message message(bytes, name);
  bool has_trainer = false;
  bool has_normalizer = false;
  for (Field field; message.next(field);) {
    if (field.number >= 1 && field.number <= 3) message.expect(field, kBytes, "a part");
    has_trainer |= field.number == 2;
    has_normalizer |= field.number == 3;
    if (field.number == 1)
      model.pieces.push_back(parse_piece(field.bytes, name, model.pieces.size()));
    if (field.number == 2) parse_trainer(field.bytes, name, model);
    if (field.number == 3) parse_normalizer(field.bytes, name, model);
  }
  check_model(model, name);
  // Both follow the pieces in every file that SentencePiece writes; a message has no length of its
  // own, so this is how a file that ends between two pieces is noticed.
  if (!has_trainer || !has_normalizer)
    message.fail("has no trainer_spec or normalizer_spec; the file may be cut off");
  return model;
}

SentencePieceModel read_sentencepiece_model(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_sentencepiece_model(file.bytes(), path.string());
}

}  // namespace nanoflow
