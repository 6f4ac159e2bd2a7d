#include "text/tokenizer.h"

#include <algorithm>

#include "base/check.h"
#include "text/detokenizer.h"
#include "text/tokenizer_impl.h"

namespace nanoflow {

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {
  NANO_CHECK(impl_ != nullptr);
}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text,
                                               const EncodeOptions& options) const {
  return impl_->encode(text, options);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  Detokenizer detokenizer(*this, {.skip_special = skip_special});
  std::string out;
  for (const int32_t id : ids) detokenizer.push(id, out);
  detokenizer.finish(out);
  return out;
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  return impl_->bytes(id);
}
std::string_view Tokenizer::token_text(int32_t id) const {
  return impl_->text(id);
}
std::optional<int32_t> Tokenizer::token_id(std::string_view text) const {
  return impl_->find(text);
}
int32_t Tokenizer::vocab_size() const {
  return impl_->size();
}
bool Tokenizer::is_special(int32_t id) const {
  return impl_->is_special(id);
}
std::optional<int32_t> Tokenizer::bos_id() const {
  return impl_->parts().bos;
}
std::optional<int32_t> Tokenizer::eos_id() const {
  return impl_->parts().eos;
}
std::optional<int32_t> Tokenizer::unk_id() const {
  return impl_->parts().unk;
}
std::optional<int32_t> Tokenizer::pad_id() const {
  return impl_->parts().pad;
}
std::span<const int32_t> Tokenizer::prefix_ids() const {
  return impl_->parts().prefix;
}
std::span<const int32_t> Tokenizer::suffix_ids() const {
  return impl_->parts().suffix;
}
bool Tokenizer::add_bos() const {
  const auto& prefix = impl_->parts().prefix;
  return bos_id() && std::find(prefix.begin(), prefix.end(), *bos_id()) != prefix.end();
}
bool Tokenizer::add_eos() const {
  const auto& suffix = impl_->parts().suffix;
  return eos_id() && std::find(suffix.begin(), suffix.end(), *eos_id()) != suffix.end();
}

}  // namespace nanoflow
