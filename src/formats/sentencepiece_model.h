// SentencePiece's tokenizer.model: a serialised ModelProto (sentencepiece_model.proto), of which
// this reads what a tokenizer needs. Unknown fields are skipped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace nanoflow {

struct SentencePiece {
  /// The numbers of ModelProto.SentencePiece.Type.
  enum class Type : uint8_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6,
  };
  std::string text;
  float score = 0;
  Type type = Type::kNormal;
};

struct SentencePieceModel {
  /// The numbers of TrainerSpec.ModelType.
  enum class ModelType : uint8_t { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };
  std::vector<SentencePiece> pieces;  ///< index: token id
  ModelType model_type = ModelType::kUnigram;
  bool byte_fallback = false;
  int32_t unk_id = 0;
  int32_t bos_id = 1;
  int32_t eos_id = 2;
  int32_t pad_id = -1;
  std::string normalizer_name;            ///< "identity", "nmt_nfkc", ...
  bool has_precompiled_charsmap = false;  ///< the normaliser rewrites characters
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

/// Throws IoError, or FormatError when the bytes are no such message, have no pieces, have empty or
/// repeated ones or scores that are not finite, ids of special tokens that are no piece's, or no
/// trainer_spec or normalizer_spec.
SentencePieceModel read_sentencepiece_model(const std::filesystem::path& path);
/// The same from memory; `name` stands for the path in messages.
SentencePieceModel parse_sentencepiece_model(std::span<const std::byte> bytes,
                                             const std::string& name);

}  // namespace nanoflow
