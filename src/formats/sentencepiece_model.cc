#include "formats/sentencepiece_model.h"

#include <bit>

#include <fmt/format.h>

#include "base/mmap.h"
#include "formats/byte_reader.h"

namespace nanoflow {
namespace {

/// One field of a protocol buffer message (the wire format has four types that are still in use).
struct Field {
  uint32_t number = 0;
  uint64_t varint = 0;               // wire type 0
  uint32_t fixed32 = 0;              // wire type 5
  std::span<const std::byte> bytes;  // wire type 2
};

class Message {
 public:
  Message(std::span<const std::byte> bytes, const std::string& name) : in_(bytes, name) {}

  /// False at the end.
  bool next(Field& field) {
    if (in_.remaining() == 0) return false;
    const uint64_t tag = varint();
    field = Field{};
    field.number = static_cast<uint32_t>(tag >> 3);
    switch (tag & 7) {
      case 0: field.varint = varint(); break;
      case 1: (void)in_.take(8, "a field"); break;
      case 2: field.bytes = in_.take(varint(), "a field"); break;
      case 5: field.fixed32 = in_.read<uint32_t>("a field"); break;
      default: in_.fail("is no SentencePiece model");
    }
    if (field.number == 0) in_.fail("is no SentencePiece model");
    return true;
  }

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

std::string text_of(const Field& field) {
  return {reinterpret_cast<const char*>(field.bytes.data()), field.bytes.size()};
}

SentencePiece parse_piece(std::span<const std::byte> bytes, const std::string& name) {
  SentencePiece piece;
  Message message(bytes, name);
  for (Field field; message.next(field);) {
    if (field.number == 1) piece.text = text_of(field);
    if (field.number == 2) piece.score = std::bit_cast<float>(field.fixed32);
    if (field.number == 3) piece.type = static_cast<SentencePiece::Type>(field.varint & 0xff);
  }
  return piece;
}

void parse_trainer(std::span<const std::byte> bytes, const std::string& name,
                   SentencePieceModel& model) {
  Message message(bytes, name);
  for (Field field; message.next(field);) {
    const auto id = static_cast<int32_t>(static_cast<uint32_t>(field.varint));
    switch (field.number) {
      case 3:
        model.model_type = static_cast<SentencePieceModel::ModelType>(field.varint & 0xff);
        break;
      case 35: model.byte_fallback = field.varint != 0; break;
      case 40: model.unk_id = id; break;
      case 41: model.bos_id = id; break;
      case 42: model.eos_id = id; break;
      case 43: model.pad_id = id; break;
      default: break;
    }
  }
}

void parse_normalizer(std::span<const std::byte> bytes, const std::string& name,
                      SentencePieceModel& model) {
  Message message(bytes, name);
  for (Field field; message.next(field);) {
    switch (field.number) {
      case 1: model.normalizer_name = text_of(field); break;
      case 2: model.has_precompiled_charsmap = !field.bytes.empty(); break;
      case 3: model.add_dummy_prefix = field.varint != 0; break;
      case 4: model.remove_extra_whitespaces = field.varint != 0; break;
      case 5: model.escape_whitespaces = field.varint != 0; break;
      default: break;
    }
  }
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::span<const std::byte> bytes,
                                             const std::string& name) {
  SentencePieceModel model;
  Message message(bytes, name);
  for (Field field; message.next(field);) {
    if (field.number == 1) model.pieces.push_back(parse_piece(field.bytes, name));
    if (field.number == 2) parse_trainer(field.bytes, name, model);
    if (field.number == 3) parse_normalizer(field.bytes, name, model);
  }
  if (model.pieces.empty()) throw FormatError(name, "is no SentencePiece model: it has no pieces");
  return model;
}

SentencePieceModel read_sentencepiece_model(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_sentencepiece_model(file.bytes(), path.string());
}

}  // namespace nanoflow
