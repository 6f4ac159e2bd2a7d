// Vocabularies that list no merges: SentencePiece BPE models and tiktoken ranks.
#include <algorithm>
#include <charconv>
#include <functional>
#include <map>

#include <fmt/format.h>

#include "base/error.h"
#include "text/byte_level.h"
#include "text/tokenizer_builders.h"

namespace nanoflow {
namespace {

using Type = SentencePiece::Type;

/// The byte that "<0x0A>" names, or -1.
int32_t byte_of(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') return -1;
  int32_t value = -1;
  const auto [end, error] = std::from_chars(text.data() + 3, text.data() + 5, value, 16);
  return error == std::errc() && end == text.data() + 5 ? value : -1;
}

void refuse_unsupported(const SentencePieceModel& model, const std::string& name) {
  const auto refuse = [&](std::string_view what) {
    throw ConfigError(name, fmt::format("SentencePiece {} is not supported", what));
  };
  if (model.model_type == SentencePieceModel::ModelType::kUnigram) refuse("Unigram");
  if (model.model_type != SentencePieceModel::ModelType::kBpe) refuse("word or character models");
  if (model.has_precompiled_charsmap) refuse("normaliser " + model.normalizer_name);
  if (model.remove_extra_whitespaces) refuse("remove_extra_whitespaces");
  if (!model.escape_whitespaces) refuse("without escape_whitespaces");
  for (const SentencePiece& piece : model.pieces) {
    if (piece.type == Type::kUnused) refuse("piece of type UNUSED '" + piece.text + "'");
  }
}

/// Ranks that order like the scores, the highest first; equal scores share a rank.
std::vector<RankedToken> ranks_of_scores(const SentencePieceModel& model) {
  std::map<float, uint32_t, std::greater<>> rank_of;
  for (const SentencePiece& piece : model.pieces) {
    if (piece.type == Type::kNormal) rank_of[piece.score] = 0;
  }
  uint32_t next = 0;
  for (auto& [score, rank] : rank_of) rank = next++;
  std::vector<RankedToken> ranked;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const SentencePiece& piece = model.pieces[id];
    if (piece.type != Type::kNormal) continue;
    ranked.push_back({static_cast<int32_t>(id), rank_of[piece.score]});
  }
  return ranked;
}

std::optional<int32_t> valid_id(int32_t id, size_t size) {
  if (id < 0 || static_cast<size_t>(id) >= size) return std::nullopt;
  return id;
}

/// Control tokens are special. User-defined pieces always match, in marked text.
std::vector<AddedToken> added_pieces(const SentencePieceModel& model) {
  std::vector<AddedToken> added;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const SentencePiece& piece = model.pieces[id];
    if (piece.type != Type::kControl && piece.type != Type::kUnknown) continue;
    AddedToken token;
    token.id = static_cast<int32_t>(id);
    token.content = piece.text;
    token.special = true;
    token.normalized = false;
    added.push_back(std::move(token));
  }
  return added;
}

void add_user_defined(TokenizerParts& parts, const SentencePieceModel& model) {
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    if (model.pieces[id].type != Type::kUserDefined) continue;
    AddedTokenEntry entry;
    entry.pattern.content = model.pieces[id].text;
    entry.pattern.id = static_cast<int32_t>(id);
    entry.normalized = true;
    parts.added.push_back(std::move(entry));
  }
}

}  // namespace

Tokenizer build_from_sentencepiece(const SentencePieceModel& model, const TokenizerConfig& config,
                                   const std::string& name) {
  refuse_unsupported(model, name);
  TokenizerParts parts;
  BpeModel bpe;
  bpe.units = BpeUnits::kCharacters;
  bpe.fuse_unk = true;
  bpe.byte_tokens.fill(-1);
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const SentencePiece& piece = model.pieces[id];
    if (!is_valid_utf8(piece.text)) {
      throw FormatError(name, fmt::format("piece {} is not valid UTF-8", id));
    }
    parts.texts.push_back(piece.text);
    bpe.tokens.push_back(piece.type == Type::kNormal ? std::string_view(piece.text)
                                                     : std::string_view());
    const int32_t byte = piece.type == Type::kByte ? byte_of(piece.text) : -1;
    if (byte >= 0) bpe.byte_tokens[static_cast<size_t>(byte)] = static_cast<int32_t>(id);
  }
  if (std::none_of(bpe.byte_tokens.begin(), bpe.byte_tokens.end(),
                   [](int32_t id) { return id < 0; })) {
    parts.byte_token_ids.assign(bpe.byte_tokens.begin(), bpe.byte_tokens.end());
  }
  bpe.merges = merges_of_ranks(bpe.tokens, ranks_of_scores(model), false);
  const size_t size = model.pieces.size();
  parts.bos = valid_id(model.bos_id, size);
  parts.eos = valid_id(model.eos_id, size);
  parts.unk = valid_id(model.unk_id, size);
  parts.pad = valid_id(model.pad_id, size);
  bpe.unk_id = parts.unk.value_or(-1);
  parts.bpe = std::move(bpe);
  parts.decode.sentencepiece = true;
  parts.decode.strip_left = model.add_dummy_prefix ? 1 : 0;
  // As Hugging Face converts such a model: by default a mark is put in front of every segment; the
  // newer behaviour ("legacy": false) only puts one at the start, and none before a space.
  if (config.legacy.value_or(true)) {
    std::vector<Normalizer::Step> steps;
    if (model.add_dummy_prefix) steps.emplace_back(PrependStep{std::string(kSpaceMark)});
    steps.emplace_back(ReplaceStep{" ", std::string(kSpaceMark)});
    parts.normalizer = Normalizer(std::move(steps));
  } else {
    parts.metaspace = Metaspace{
        model.add_dummy_prefix ? Metaspace::Prepend::kFirst : Metaspace::Prepend::kNever, false};
  }
  apply_config(parts, added_pieces(model), config, name);
  add_user_defined(parts, model);
  if (config.add_bos_token.value_or(true) && parts.bos) parts.prefix.push_back(*parts.bos);
  apply_bos_eos(parts, config);
  return make_tokenizer(std::move(parts));
}

Tokenizer build_from_tiktoken(const TiktokenRanks& ranks, const PiecePattern& pattern,
                              const Normalizer& normalizer, const TokenizerConfig& config) {
  TokenizerParts parts;
  BpeModel bpe;
  bpe.units = BpeUnits::kBytes;
  bpe.ignore_merges = true;  // tiktoken looks a piece up before it merges
  std::vector<RankedToken> ranked;
  ranked.reserve(ranks.size());
  for (size_t id = 0; id < ranks.size(); ++id) {
    bpe.tokens.push_back(ranks[id]);
    parts.texts.push_back(byte_level_of_bytes(ranks[id]));
    ranked.push_back({static_cast<int32_t>(id), static_cast<uint32_t>(id)});
  }
  bpe.merges = merges_of_ranks(bpe.tokens, ranked, true);
  parts.bpe = std::move(bpe);
  parts.normalizer = normalizer;
  parts.pre_tokenizer = PreTokenizer({pattern});
  apply_config(parts, {}, config, "tokenizer_config.json");
  apply_bos_eos(parts, config);
  return make_tokenizer(std::move(parts));
}

}  // namespace nanoflow
