// The three roles of a convolution computed by oneDNN, as a handler of XLA's foreign-function interface.
//
// Images are [batch, *spatial, channels] and kernels [*window, in / groups, (group, out / groups)], two or three spatial
// axes. oneDNN takes both as they lie in memory, described by strides; it chooses the layout in which it wants the
// kernel, and what has to be reordered is reordered inside the call, in scratch memory that XLA allocates as a second
// result. A forward pass may add a bias, a third operand, and apply an activation before it writes its result. Planning a
// shape takes milliseconds, so plans are kept: the latest kPlans of them, behind a lock that is not
// held while one runs.
//
// No exception leaves this file: each becomes an error of XLA that says what was asked for.

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cinttypes>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using dnnl::memory;
using Dims = memory::dims;

constexpr size_t kPlans = 1024;
constexpr size_t kAlignment = 64;
enum Tensor { kX = 0, kK = 1, kY = 2 };
enum Role : int64_t { kForward = 0, kInputGrad = 1, kKernelGrad = 2 };
enum Activation : int64_t { kNone = 0, kRelu = 1 };

// All that decides a plan.
struct Problem {
  int64_t role;
  int64_t operand_type, result_type;  // as in xla::ffi::DataType
  int64_t groups;
  int64_t bias;        // 1 where there is one
  int64_t activation;  // one of Activation
  Dims x, k, y, strides, dilations, low, high;

  std::vector<int64_t> key() const {
    std::vector<int64_t> all = {role,       operand_type, result_type, groups, bias,
                                activation, static_cast<int64_t>(strides.size())};
    for (const Dims* d : {&x, &k, &y, &strides, &dilations, &low, &high}) all.insert(all.end(), d->begin(), d->end());
    return all;
  }

  std::string text() const {
    std::ostringstream out;
    auto list = [&](const char* name, const Dims& d) {
      out << name << "=(";
      for (size_t i = 0; i < d.size(); ++i) out << (i ? ", " : "") << d[i];
      out << ") ";
    };
    static const char* const roles[] = {"forward", "input_grad", "kernel_grad"};
    out << (role >= 0 && role < 3 ? roles[role] : "unknown role") << " of a convolution: ";
    list("x", x), list("kernel", k), list("y", y), list("strides", strides), list("kernel_dilation", dilations);
    list("low", low), list("high", high);
    out << "feature_group_count=" << groups << (bias ? " with bias" : "");
    if (activation) out << " activation=" << activation;
    return out.str();
  }
};

memory::data_type type_of(int64_t type) {
  switch (static_cast<ffi::DataType>(type)) {
    case ffi::DataType::F32: return memory::data_type::f32;
    case ffi::DataType::BF16: return memory::data_type::bf16;
    case ffi::DataType::F16: return memory::data_type::f16;
    case ffi::DataType::S32: return memory::data_type::s32;
    case ffi::DataType::S8: return memory::data_type::s8;
    case ffi::DataType::U8: return memory::data_type::u8;
    default: throw dnnl::error(dnnl_unimplemented, "a dtype that oneDNN does not take");
  }
}

// [batch, *spatial, channels] in oneDNN's order of dimensions: batch, channels, *spatial.
memory::desc image(const Dims& shape, memory::data_type type) {
  const size_t rank = shape.size() - 2;
  Dims dims = {shape[0], shape[rank + 1]}, strides = {0, 1};
  dims.insert(dims.end(), shape.begin() + 1, shape.begin() + 1 + rank);
  strides.resize(rank + 2);
  int64_t stride = shape[rank + 1];
  for (size_t i = rank; i-- > 0;) strides[2 + i] = stride, stride *= shape[1 + i];
  strides[0] = stride;
  return memory::desc(dims, type, strides);
}

// [*window, in / groups, (group, out / groups)] in oneDNN's order: group, out, in, *window.
memory::desc kernel(const Dims& shape, int64_t groups, memory::data_type type) {
  const size_t rank = shape.size() - 2;
  const int64_t in = shape[rank], out = shape[rank + 1];
  Dims dims, strides;
  if (groups > 1) dims.push_back(groups), strides.push_back(out / groups);
  dims.push_back(out / groups), strides.push_back(1);
  dims.push_back(in), strides.push_back(out);
  Dims window(rank);
  int64_t stride = in * out;
  for (size_t i = rank; i-- > 0;) window[i] = stride, stride *= shape[i];
  dims.insert(dims.end(), shape.begin(), shape.begin() + rank);
  strides.insert(strides.end(), window.begin(), window.end());
  return memory::desc(dims, type, strides);
}

memory::desc bias_of(const Problem& p) { return {{p.y.back()}, type_of(p.result_type), memory::format_tag::x}; }

memory::desc any(const memory::desc& given) {
  return memory::desc(given.get_dims(), given.get_data_type(), memory::format_tag::any);
}

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

// Something planned: what the convolution takes, in which layouts.
struct Described {
  std::array<memory::desc, 3> wants;
  memory::desc scratchpad;
  std::string implementation;
  dnnl::primitive primitive;
};

// `make` also compiles the code; without it the description alone is made.
template <typename PD, typename P>
void fill(Described& d, const PD& pd, bool make) {
  d.scratchpad = pd.scratchpad_desc();
  d.implementation = pd.impl_info_str();
  if (make) d.primitive = P(pd);
}

Described describe(const Problem& p, const std::array<memory::desc, 3>& md, bool make) {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  attr.set_fpmath_mode(dnnl::fpmath_mode::strict);  // float32 is float32, whatever the environment says
  Dims dilates = p.dilations;
  for (auto& d : dilates) d -= 1;  // oneDNN counts the gaps
  if (p.activation == kRelu) {
    dnnl::post_ops after;
    after.append_prelu(0);  // max(y, 0) as y > 0 ? y : 0 y: oneDNN's own relu makes a NaN 0, this keeps it
    attr.set_post_ops(after);
  } else if (p.activation != kNone) {
    throw dnnl::error(dnnl_invalid_arguments, "an activation that is not known");
  }
  if (p.role != kForward && (p.bias || p.activation)) {
    throw dnnl::error(dnnl_invalid_arguments, "a gradient has neither bias nor activation");
  }
  const memory::desc bias = p.bias ? bias_of(p) : memory::desc();
  const auto direct = dnnl::algorithm::convolution_direct;
  Described d;
  auto hint = [&](const memory::desc& x, const memory::desc& k, const memory::desc& y, dnnl::prop_kind kind) {
    return dnnl::convolution_forward::primitive_desc(engine(), kind, direct, x, k, bias, y, p.strides, dilates, p.low,
                                                     p.high, attr);
  };
  auto of_operand = [&](const memory::desc& m) {  // the hint of a gradient has one dtype throughout
    const auto type = type_of(p.operand_type);
    return m.get_format_kind() == memory::format_kind::any ? memory::desc(m.get_dims(), type, memory::format_tag::any)
                                                           : memory::desc(m.get_dims(), type, m.get_strides());
  };
  if (p.role == kForward) {
    auto pd = hint(md[kX], md[kK], md[kY], dnnl::prop_kind::forward_inference);
    d.wants = {pd.src_desc(), pd.weights_desc(), pd.dst_desc()};
    fill<decltype(pd), dnnl::convolution_forward>(d, pd, make);
  } else if (p.role == kInputGrad) {
    auto forward = hint(of_operand(md[kX]), md[kK], md[kY], dnnl::prop_kind::forward_training);
    auto pd = dnnl::convolution_backward_data::primitive_desc(engine(), direct, md[kX], md[kK], md[kY], p.strides,
                                                              dilates, p.low, p.high, forward, attr);
    d.wants = {pd.diff_src_desc(), pd.weights_desc(), pd.diff_dst_desc()};
    fill<decltype(pd), dnnl::convolution_backward_data>(d, pd, make);
  } else {
    auto forward = hint(md[kX], of_operand(md[kK]), md[kY], dnnl::prop_kind::forward_training);
    auto pd = dnnl::convolution_backward_weights::primitive_desc(engine(), direct, md[kX], md[kK], md[kY], p.strides,
                                                                 dilates, p.low, p.high, forward, attr);
    d.wants = {pd.src_desc(), pd.diff_weights_desc(), pd.diff_dst_desc()};
    fill<decltype(pd), dnnl::convolution_backward_weights>(d, pd, make);
  }
  return d;
}

bool is_reference(const std::string& implementation) { return implementation.rfind("ref", 0) == 0; }

int result_of(int64_t role) { return role == kForward ? kY : role == kInputGrad ? kX : kK; }

std::array<memory::desc, 3> given(const Problem& p) {
  const auto operand = type_of(p.operand_type), result = type_of(p.result_type);
  const int out = result_of(p.role);
  return {image(p.x, out == kX ? result : operand), kernel(p.k, p.groups, out == kK ? result : operand),
          image(p.y, out == kY ? result : operand)};
}

// The kernel's layout is oneDNN's choice. The images stay as they are, unless it then has nothing but its reference loops.
Described best(const Problem& p, const std::array<memory::desc, 3>& md, bool make) {
  std::optional<Described> first;
  try {
    first = describe(p, {md[kX], any(md[kK]), md[kY]}, make);
    if (!is_reference(first->implementation)) return *first;
  } catch (const dnnl::error&) {
  }
  try {
    Described second = describe(p, {any(md[kX]), any(md[kK]), any(md[kY])}, make);
    if (!is_reference(second.implementation) || !first) return second;
  } catch (const dnnl::error&) {
    if (!first) throw;
  }
  return *first;
}

struct Plan {
  std::array<memory::desc, 3> given, wants;
  std::array<std::optional<dnnl::reorder>, 3> reorder;
  std::array<size_t, 3> at;  // where a reordered tensor begins in scratch memory
  size_t scratchpad_at = 0, scratch = 0;
  memory::desc scratchpad, bias;
  int64_t activation = kNone;
  dnnl::primitive primitive;
};

size_t aligned(size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

// Where in scratch memory what lies.
void lay_out(Plan& plan, const Described& d) {
  plan.wants = d.wants;
  plan.scratchpad = d.scratchpad;
  for (int t : {kX, kK, kY}) {
    if (plan.wants[t] == plan.given[t]) continue;
    plan.at[t] = plan.scratch;
    plan.scratch += aligned(plan.wants[t].get_size());
  }
  plan.scratchpad_at = plan.scratch;
  plan.scratch += aligned(plan.scratchpad.get_size());
}

std::shared_ptr<const Plan> plan(const Problem& p) {
  auto made = std::make_shared<Plan>();
  made->given = given(p);
  if (p.bias) made->bias = bias_of(p);
  made->activation = p.activation;
  Described d = best(p, made->given, true);
  lay_out(*made, d);
  made->primitive = d.primitive;
  for (int t : {kX, kK, kY}) {
    if (made->wants[t] == made->given[t]) continue;
    const bool is_result = t == result_of(p.role);
    const auto& from = is_result ? made->wants[t] : made->given[t];
    const auto& to = is_result ? made->given[t] : made->wants[t];
    made->reorder[t] = dnnl::reorder(dnnl::reorder::primitive_desc(engine(), from, engine(), to));
  }
  return made;
}

// The plans that were used last.
class Plans {
 public:
  std::shared_ptr<const Plan> get(const Problem& p) {
    const auto key = p.key();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (auto found = index_.find(key); found != index_.end()) {
        order_.splice(order_.begin(), order_, found->second);
        return found->second->second;
      }
    }
    auto made = plan(p);  // without the lock: two threads may plan the same, and one of the plans is kept
    std::lock_guard<std::mutex> lock(mutex_);
    if (auto found = index_.find(key); found != index_.end()) return found->second->second;
    order_.emplace_front(key, made);
    index_[key] = order_.begin();
    if (order_.size() > kPlans) index_.erase(order_.back().first), order_.pop_back();
    return made;
  }

  size_t size() {
    std::lock_guard<std::mutex> lock(mutex_);
    return order_.size();
  }

 private:
  using Entry = std::pair<std::vector<int64_t>, std::shared_ptr<const Plan>>;
  std::mutex mutex_;
  std::list<Entry> order_;
  std::map<std::vector<int64_t>, std::list<Entry>::iterator> index_;
};

Plans& plans() {
  static Plans* all = new Plans;  // never destroyed: a thread may still run when the process ends
  return *all;
}

void execute(const Plan& p, int64_t role, const std::array<void*, 3>& data, void* bias, char* scratch) {
  dnnl::stream stream(engine());
  const int out = result_of(role);
  std::array<memory, 3> tensor;
  for (int t : {kX, kK, kY}) {
    memory user(p.given[t], engine(), data[t]);
    if (!p.reorder[t]) {
      tensor[t] = user;
      continue;
    }
    tensor[t] = memory(p.wants[t], engine(), scratch + p.at[t]);
    if (t != out) dnnl::reorder(*p.reorder[t]).execute(stream, user, tensor[t]);
  }
  memory scratchpad(p.scratchpad, engine(), p.scratchpad.get_size() ? scratch + p.scratchpad_at : nullptr);
  std::unordered_map<int, memory> args = {{DNNL_ARG_SCRATCHPAD, scratchpad}};
  args.insert({role == kInputGrad ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, tensor[kX]});
  args.insert({role == kKernelGrad ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, tensor[kK]});
  args.insert({role == kForward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, tensor[kY]});
  if (bias) args.insert({DNNL_ARG_BIAS, memory(p.bias, engine(), bias)});
  if (p.activation == kRelu) {
    static float zero[1] = {0.0f};
    const Dims one(p.given[kY].get_dims().size(), 1);
    const memory::desc slope(one, memory::data_type::f32, Dims(one.size(), 1));
    args.insert({DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_WEIGHTS, memory(slope, engine(), zero)});
  }
  p.primitive.execute(stream, args);
  if (p.reorder[out]) {
    memory user(p.given[out], engine(), data[out]);
    dnnl::reorder(*p.reorder[out]).execute(stream, tensor[out], user);
  }
  stream.wait();
}

// Convolutions take turns: each has all the cores, and two teams of OpenMP at once would wait for each other's threads.
// OpenMP makes a team for every thread that enters it, and XLA may call from each thread of its pool. So the first
// kMasters threads call oneDNN themselves, which costs nothing, and any other has one more thread call it.
class Turns {
 public:
  void run(const std::function<void()>& work) {
    std::lock_guard<std::mutex> turn(turn_);
    thread_local Master master;
    if (master.admitted()) return work();
    std::unique_lock<std::mutex> lock(mutex_);
    if (getpid() != owner_) {  // not started, or started by the process that this one was forked from
      std::thread([this] { loop(); }).detach();
      owner_ = getpid();
    }
    work_ = &work, error_ = nullptr;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !work_; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr int kMasters = 4;

  // One for each thread; its place is free again when the thread ends.
  class Master {
   public:
    bool admitted() {
      if (!admitted_ && masters().fetch_add(1) < kMasters) return admitted_ = true;
      if (!admitted_) masters().fetch_sub(1);
      return admitted_;
    }
    ~Master() {
      if (admitted_) masters().fetch_sub(1);
    }

   private:
    static std::atomic<int>& masters() {
      static std::atomic<int> count{0};
      return count;
    }
    bool admitted_ = false;
  };

  void loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return work_ != nullptr; });
      try {
        (*work_)();
      } catch (...) {
        error_ = std::current_exception();
      }
      work_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex turn_, mutex_;
  std::condition_variable changed_;
  const std::function<void()>* work_ = nullptr;
  std::exception_ptr error_;
  pid_t owner_ = 0;
};

Turns& turns() {
  static Turns* all = new Turns;  // never destroyed, like the plans
  return *all;
}

// XLA gets large temporary memory from the system anew for every run of a program, and every page of it is faulted in when
// it is first written: in a training step that costs up to a third of the time. Huge pages need a 512th of the faults, where
// the system gives them to those who ask (transparent_hugepage/enabled: madvise, the usual setting). So the whole mapping in
// which a large result lies is advised, each time, as it may be a new one at the same place. What mapping that is takes
// long to find, and is kept; one that does not hold all of the result is an old one. It is advice alone: what was mapped
// there before or since is as it was, but for its pages.
class HugePages {
 public:
  void prefer(const void* data, size_t size) {
    if (size < kHuge) return;
    const uintptr_t at = reinterpret_cast<uintptr_t>(data);
    std::lock_guard<std::mutex> lock(mutex_);
    const Mapping* found = nullptr;
    for (const Mapping& known : known_) {
      if (known.begin <= at && at + size <= known.end) found = &known;
    }
    if (!found) {
      if (known_.size() == kKept) known_.erase(known_.begin());
      known_.push_back(mapping_of(at, at + size));
      found = &known_.back();
    }
    if (found->unnamed) madvise(reinterpret_cast<void*>(found->begin), found->end - found->begin, MADV_HUGEPAGE);
  }

 private:
  static constexpr size_t kHuge = size_t{2} << 20, kKept = 64;

  struct Mapping {
    uintptr_t begin, end;
    bool unnamed;  // no file, and neither heap nor stack
  };

  static Mapping mapping_of(uintptr_t at, uintptr_t to) {
    Mapping found = {at, to, false};
    if (FILE* maps = std::fopen("/proc/self/maps", "re")) {
      char line[512];
      while (std::fgets(line, sizeof line, maps)) {
        uintptr_t begin, end;
        int named = 0;  // where the name begins
        if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %*s %n", &begin, &end, &named) < 2) continue;
        const bool unnamed = named > 0 && (line[named] == '\0' || line[named] == '\n');
        if (begin <= at && at < end) found = {begin, end, unnamed};
        // advice that reached a part of it has cut it in two
        if (begin == found.end && begin < to && found.unnamed && unnamed) found.end = end;
      }
      std::fclose(maps);
    }
    return found;
  }

  std::mutex mutex_;
  std::vector<Mapping> known_;
};

HugePages& huge_pages() {
  static HugePages* all = new HugePages;  // never destroyed, like the plans
  return *all;
}

using Ints = ffi::Span<const int64_t>;

Dims dims(Ints values) { return Dims(values.begin(), values.end()); }

ffi::Error Convolve(ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::RemainingArgs more, ffi::Result<ffi::AnyBuffer> result,
                    ffi::Result<ffi::AnyBuffer> given_scratch, int64_t role, int64_t groups, int64_t activation, Ints x,
                    Ints k, Ints y, Ints strides, Ints dilations, Ints low, Ints high) {
  const int64_t biases = static_cast<int64_t>(more.size());
  Problem problem{role,    static_cast<int64_t>(a.element_type()), static_cast<int64_t>(result->element_type()),
                  groups,  biases,  activation,
                  dims(x), dims(k), dims(y), dims(strides), dims(dilations), dims(low), dims(high)};
  try {
    void* bias = nullptr;
    if (biases) {
      auto given_bias = more.get<ffi::AnyBuffer>(0);
      if (biases > 1 || !given_bias.has_value() || given_bias->element_type() != result->element_type()) {
        return ffi::Error(ffi::ErrorCode::kInvalidArgument, "oneDNN: one bias of the result's dtype is accepted");
      }
      bias = given_bias->untyped_data();
    }
    auto found = plans().get(problem);
    if (given_scratch->size_bytes() < found->scratch) {
      return ffi::Error(ffi::ErrorCode::kInvalidArgument,
                        "oneDNN: " + std::to_string(given_scratch->size_bytes()) + " bytes of scratch, wanted are " +
                            std::to_string(found->scratch) + ", for " + problem.text());
    }
    char* scratch = static_cast<char*>(given_scratch->untyped_data());
    void* first = a.untyped_data();
    void* second = b.untyped_data();
    void* out = result->untyped_data();
    std::array<void*, 3> data;
    if (role == kForward) data = {first, second, out};
    else if (role == kInputGrad) data = {out, second, first};
    else data = {first, out, second};
    huge_pages().prefer(out, result->size_bytes());
    huge_pages().prefer(scratch, given_scratch->size_bytes());
    turns().run([&] { execute(*found, role, data, bias, scratch); });
  } catch (const dnnl::error& e) {
    return ffi::Error(ffi::ErrorCode::kInternal, std::string("oneDNN: ") + e.what() + " (status " +
                                                     std::to_string(e.status) + ") for " + problem.text());
  } catch (const std::exception& e) {
    return ffi::Error(ffi::ErrorCode::kInternal, std::string("oneDNN: ") + e.what() + " for " + problem.text());
  } catch (...) {
    return ffi::Error(ffi::ErrorCode::kInternal, "oneDNN: an unknown error for " + problem.text());
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jconv_onednn_convolve, Convolve,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("role")
                                  .Attr<int64_t>("groups")
                                  .Attr<int64_t>("activation")
                                  .Attr<Ints>("x")
                                  .Attr<Ints>("k")
                                  .Attr<Ints>("y")
                                  .Attr<Ints>("strides")
                                  .Attr<Ints>("dilations")
                                  .Attr<Ints>("low")
                                  .Attr<Ints>("high"));

// What oneDNN would run, as text, for Python to ask before anything is lowered. `values` holds the numbers of a Problem in
// the order of its key; the text begins with "no: " where nothing covers it. Returns the bytes of scratch memory it takes.
extern "C" int64_t jconv_onednn_describe(const int64_t* values, int64_t count, char* text, int64_t size) {
  std::string said;
  int64_t scratch = 0;
  try {
    const int64_t rank = count > 6 ? values[6] : 0;
    if (rank < 1 || count != 7 + 3 * (rank + 2) + 4 * rank) throw std::runtime_error("malformed problem");
    const int64_t* at = values + 7;
    auto take = [&](int64_t n) {
      Dims d(at, at + n);
      at += n;
      return d;
    };
    Problem p{values[0], values[1], values[2], values[3], values[4], values[5], {}, {}, {}, {}, {}, {}, {}};
    p.x = take(rank + 2), p.k = take(rank + 2), p.y = take(rank + 2);
    p.strides = take(rank), p.dilations = take(rank), p.low = take(rank), p.high = take(rank);
    Plan plan;
    plan.given = given(p);
    Described d = best(p, plan.given, false);
    lay_out(plan, d);
    said = d.implementation;
    scratch = static_cast<int64_t>(plan.scratch);
  } catch (const std::exception& e) {
    said = std::string("no: ") + e.what();
  } catch (...) {
    said = "no: an unknown error";
  }
  std::strncpy(text, said.c_str(), size - 1);
  text[size - 1] = '\0';
  return scratch;
}

extern "C" int64_t jconv_onednn_plans() { return static_cast<int64_t>(plans().size()); }

// The version of oneDNN, three numbers, and that of XLA's foreign-function interface this was compiled with, two.
extern "C" void jconv_onednn_versions(int64_t* versions) {
  const dnnl_version_t* found = dnnl_version();
  versions[0] = found->major, versions[1] = found->minor, versions[2] = found->patch;
  versions[3] = XLA_FFI_API_MAJOR, versions[4] = XLA_FFI_API_MINOR;
}
