// FakeBackend: keeps weights in host memory and computes nothing. For tests of model/ only.
#pragma once

#include <cstring>

#include "base/check.h"
#include "ops/backend.h"

namespace nanoflow {

class FakeBackend : public Backend {
 public:
  /// `layout` is what prepared matrices claim to have; not 0 means that they cannot be shared.
  explicit FakeBackend(int layout = 0) : layout_(layout) {}

  [[nodiscard]] DeviceInfo device() const override { return {}; }
  [[nodiscard]] int max_lanes() const override { return 1; }
  Buffer allocate(int64_t bytes) override { return allocate_host(bytes); }
  Buffer allocate_pinned(int64_t bytes) override { return allocate_host(bytes); }
  [[nodiscard]] bool supports(const OpArgs&) const override { return false; }
  [[nodiscard]] int64_t workspace_bytes(const OpArgs&, const LaunchContext&) const override {
    return 0;
  }
  OwnedWeight prepare_weight(const TensorView& weight, WeightUse use, int64_t experts) override {
    NANO_CHECK(weight.is_contiguous(), "{}", weight.to_string());
    OwnedWeight owned;
    owned.storage = allocate_host(weight.size_bytes());
    std::memcpy(owned.storage.data(), weight.data(), static_cast<size_t>(weight.size_bytes()));
    owned.packed.data = weight.rank() == 1
                            ? owned.storage.view(weight.dtype(), {weight.rows()})
                            : owned.storage.view(weight.dtype(), {weight.rows(), weight.cols()});
    owned.packed.n = weight.rows() / experts;
    owned.packed.k = weight.rank() == 1 ? 1 : weight.cols();
    owned.packed.experts = experts;
    if (use == WeightUse::kMatmul) owned.packed.layout = layout_;
    ++prepared;
    return owned;
  }
  [[nodiscard]] KvLayout kv_layout(const KvShape&) const override { return {}; }
  void launch(const OpArgs&, const LaunchContext&) override { NANO_CHECK(false); }
  void copy(const TensorView&, const TensorView&, LaneId) override { NANO_CHECK(false); }
  EventId create_event() override { return 0; }
  void record(LaneId, EventId) override {}
  void wait(LaneId, EventId) override {}
  void synchronize_event(EventId) override {}
  StampId create_stamp() override { return 0; }
  void stamp(LaneId, StampId) override {}
  int64_t elapsed_ns(StampId, StampId) override { return 0; }
  void begin_capture() override {}
  GraphId end_capture() override { return 0; }
  void replay(GraphId) override {}
  void synchronize() override {}

  int prepared = 0;

 private:
  int layout_;
};

}  // namespace nanoflow
