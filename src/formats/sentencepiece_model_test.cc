#include "formats/sentencepiece_model.h"

#include <limits>

#include <gtest/gtest.h>

#include "formats/format_error_test.h"

namespace nanoflow {
namespace {

template <typename Parse>
void expect_refused(Parse&& parse, std::string_view words, std::string_view name = "input") {
  EXPECT_EQ(format_testing::refusal_problem(parse, words, name), "");
}

/// A protocol buffer message in the making.
struct Proto {
  std::string bytes;

  static std::string varint(uint64_t value) {
    std::string out;
    for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
    return out + static_cast<char>(value);
  }
  Proto& number(uint32_t field, uint64_t value) {
    bytes += varint(field << 3) + varint(value);
    return *this;
  }
  Proto& text(uint32_t field, std::string_view value) {
    bytes += varint(field << 3 | 2) + varint(value.size()) + std::string(value);
    return *this;
  }
  Proto& real(uint32_t field, float value) {
    bytes += varint(field << 3 | 5);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
};

std::string piece(std::string_view text, float score, uint64_t type) {
  return Proto().text(1, text).real(2, score).number(3, type).bytes;
}

/// Three pieces and both specs.
Proto sample(const Proto& trainer = {}, const Proto& normalizer = {}) {
  Proto ids = Proto().number(41, 1).number(42, 2);
  ids.bytes += trainer.bytes;
  return Proto()
      .text(1, piece("<unk>", 0, 2))
      .text(1, piece("<s>", 0, 3))
      .text(1, piece("a", -1.5f, 1))
      .text(2, ids.bytes)
      .text(3, normalizer.bytes);
}

SentencePieceModel parse(const Proto& proto) {
  return parse_sentencepiece_model(std::as_bytes(std::span(proto.bytes)), "input");
}

void refuses(const Proto& proto, std::string_view words) {
  expect_refused([&] { (void)parse(proto); }, words);
}

TEST(SentencePieceModel, ReadsEveryField) {
  const Proto trainer =
      Proto().number(3, 2).number(35, 1).number(40, 0).number(43, ~uint64_t{0}).real(10, 0.5f);
  const Proto normalizer =
      Proto().text(1, "nmt_nfkc").text(2, "map").number(3, 0).number(4, 0).number(5, 0);
  const SentencePieceModel model = parse(sample(trainer, normalizer).text(5, "unknown field"));
  ASSERT_EQ(model.pieces.size(), 3u);
  EXPECT_EQ(model.pieces[2].text, "a");
  EXPECT_EQ(model.pieces[2].score, -1.5f);
  EXPECT_EQ(model.pieces[0].type, SentencePiece::Type::kUnknown);
  EXPECT_EQ(model.model_type, SentencePieceModel::ModelType::kBpe);
  EXPECT_TRUE(model.byte_fallback);
  EXPECT_EQ(model.unk_id, 0);
  EXPECT_EQ(model.bos_id, 1);
  EXPECT_EQ(model.eos_id, 2);
  EXPECT_EQ(model.pad_id, -1);
  EXPECT_EQ(model.normalizer_name, "nmt_nfkc");
  EXPECT_TRUE(model.has_precompiled_charsmap);
  EXPECT_FALSE(model.add_dummy_prefix || model.remove_extra_whitespaces ||
               model.escape_whitespaces);
}

TEST(SentencePieceModel, AbsentFieldsHaveTheFormatsDefaults) {
  const SentencePieceModel model = parse(sample());
  EXPECT_EQ(model.model_type, SentencePieceModel::ModelType::kUnigram);
  EXPECT_FALSE(model.byte_fallback || model.has_precompiled_charsmap);
  EXPECT_TRUE(model.add_dummy_prefix && model.remove_extra_whitespaces && model.escape_whitespaces);
}

TEST(SentencePieceModel, TruncatedAnywhereIsRefused) {
  const std::string bytes = sample().bytes;
  for (size_t size = 0; size < bytes.size(); ++size) {
    SCOPED_TRACE(size);
    refuses({bytes.substr(0, size)}, "");
  }
}

TEST(SentencePieceModel, RefusesWhatIsNoMessage) {
  refuses({""}, "has no pieces");
  refuses({"{\"model\": {}}"}, "");
  refuses({std::string(100, '\xff')}, "is no SentencePiece model");
  refuses({std::string(1, '\0')}, "is no SentencePiece model");                  // field 0
  refuses({"\x0b"}, "is no SentencePiece model");                                // a group
  refuses({Proto::varint(uint64_t{1} << 35 | 2)}, "is no SentencePiece model");  // a tag of 36 bits
  refuses({Proto::varint(10) + Proto::varint(~uint64_t{0})}, "ends inside a field");
}

TEST(SentencePieceModel, FieldsHaveTheirOwnEncoding) {
  for (const uint32_t field : {1u, 2u, 3u})
    refuses(Proto().number(field, 7), "a part has wire type 0");
  refuses(Proto().text(1, Proto().number(1, 7).bytes), "a piece has wire type 0");
  refuses(Proto().text(1, Proto().text(1, "a").number(2, 7).bytes), "score has wire type 0");
  refuses(Proto().text(1, Proto().text(1, "a").text(3, "x").bytes), "type has wire type 2");
  for (const uint32_t field : {3u, 35u, 40u, 41u, 42u, 43u})
    refuses(sample(Proto().text(field, "x")), "has wire type 2");
  for (const uint32_t field : {1u, 2u})
    refuses(sample({}, Proto().number(field, 1)), "has wire type 0");
  for (const uint32_t field : {3u, 4u, 5u})
    refuses(sample({}, Proto().text(field, "")), "has wire type 2");
}

TEST(SentencePieceModel, RefusesUnknownKindsInsteadOfFoldingThem) {
  for (const uint64_t type : {uint64_t{0}, uint64_t{7}, uint64_t{257}, ~uint64_t{0}})
    refuses(Proto().text(1, piece("a", 0, type)), "a piece's type is");
  for (const uint64_t type : {uint64_t{0}, uint64_t{5}, uint64_t{258}})
    refuses(sample(Proto().number(3, type)), "model_type is");
}

TEST(SentencePieceModel, RefusesBadPieces) {
  refuses(Proto().text(1, piece("a", 0, 1)).text(1, piece("", 0, 1)), "piece 1 is empty");
  refuses(Proto().text(1, ""), "piece 0 is empty");
  for (const float score :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()})
    refuses(Proto().text(1, piece("a", score, 1)), "piece 0 has no finite score");
  refuses(sample().text(1, piece("a", 0, 4)), "pieces 2 and 3 are both \"a\"");
  // A reserved piece and one that text can match are in name spaces of their own.
  EXPECT_EQ(parse(sample().text(1, piece("<s>", 0, 4))).pieces.size(), 4u);
}

TEST(SentencePieceModel, IdsAreThoseOfPieces) {
  const std::pair<uint32_t, const char*> fields[] = {
      {40, "unk_id"}, {41, "bos_id"}, {42, "eos_id"}, {43, "pad_id"}};
  for (const auto& [field, name] : fields) {
    for (const uint64_t id : {uint64_t{3}, uint64_t{1} << 31, uint64_t{1} << 32, ~uint64_t{1}})
      refuses(sample(Proto().number(field, id)), std::string(name) + " is ");
  }
}

TEST(SentencePieceModel, RepeatedFieldsOverwrite) {
  EXPECT_EQ(parse(sample(Proto().number(41, 0).number(41, 2))).bos_id, 2);
}

TEST(SentencePieceModel, MissingFilesAreIoErrors) {
  EXPECT_THROW((void)read_sentencepiece_model("/nonexistent/tokenizer.model"), IoError);
}

}  // namespace
}  // namespace nanoflow
