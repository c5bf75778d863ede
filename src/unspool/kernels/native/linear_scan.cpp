// Compiled once per target: the linear scan, and how a team shares it.
#include "linear_scan.h"

#include "targets.h"

namespace unspool::UNSPOOL_TARGET {
namespace {

Range chunk_of(int64_t T, int chunk, int chunks, bool backwards) {
  const Range range = share_of(T, chunk, chunks);
  return backwards ? Range{T - range.last, T - range.first} : range;
}

void forward_in_chunks(const LinearScanArguments& a, const LinearScan& scan) {
  const Range all = {0, scan.columns()};
  auto steps = [&](int chunk, int chunks) { return chunk_of(a.T, chunk, chunks, false); };
  Arena arena;
  float* carry = arena.take<float>(all.last);
  std::copy(a.initial, a.initial + all.last, carry);
  in_chunks(
      a.threads, all.last, carry,
      [&](int chunk, int chunks, float* carry) {
        const Range range = steps(chunk, chunks);
        scan.forward(carry, range, all);
        if (range.size()) std::copy_n(scan.before(range.last), all.last, carry);
      },
      [&](int chunk, int chunks, float* product, float* sum) {
        scan.summarize_forward(product, sum, steps(chunk, chunks), all);
      },
      [&](int chunk, int chunks, float* carry, const float* product, const float* sum) {
        scan.skip(carry, product, sum, steps(chunk, chunks));
      });
}

void backward_in_chunks(const LinearScanArguments& a, const LinearScanGradients& grads, const LinearScan& scan) {
  const Range all = {0, scan.columns()};
  auto steps = [&](int chunk, int chunks) { return chunk_of(a.T, chunk, chunks, true); };
  Arena arena;
  const int64_t rows = a.reset ? (a.threads + 1) * all.last : 0;
  float* fresh = arena.take<float>(rows);  // a row for each chunk, added up in their order
  std::fill(fresh, fresh + rows, 0.0f);
  in_chunks(
      a.threads, all.last, grads.initial,
      [&](int chunk, int chunks, float* carry) {
        scan.backward(grads, carry, fresh + (a.reset ? chunk * all.last : 0), steps(chunk, chunks), all);
      },
      [&](int chunk, int chunks, float* product, float* sum) {
        scan.summarize_backward(grads.states, product, sum, steps(chunk, chunks), all);
      },
      [&](int chunk, int chunks, float* carry, const float* product, const float* sum) {
        scan.skip(carry, product, sum, steps(chunk, chunks));
      });
  for (int64_t i = 0; i < rows; ++i) grads.reset_state[i % all.last] += fresh[i];
}

// Calls body(steps, columns) on a team that shares the columns, in multiples of a cache line.
template <typename Body>
void share_columns(const LinearScanArguments& a, LinearSplit split, bool backwards, Body body) {
  run_team(split == LinearSplit::kColumns ? a.threads : 1, [&](int thread, Barrier&, int threads) {
    in_blocks(a.T, share_of(a.B * a.H, thread, threads, 16), backwards, body);
  });
}

}  // namespace

LinearSplit linear_scan_split(const LinearScanArguments& a) { return choose_linear_split(a); }

void linear_scan_forward(const LinearScanArguments& a) {
  const LinearScan scan(a);
  const LinearSplit split = choose_linear_split(a);
  if (a.T * scan.columns() == 0) return;
  if (split == LinearSplit::kTime) return forward_in_chunks(a, scan);
  share_columns(a, split, false,
                [&](Range steps, Range columns) { scan.forward(scan.before(steps.first), steps, columns); });
}

void linear_scan_backward(const LinearScanArguments& a, const LinearScanGradients& grads) {
  const LinearScan scan(a);
  const LinearSplit split = choose_linear_split(a);
  std::fill(grads.initial, grads.initial + scan.columns(), 0.0f);  // it holds the carry
  if (grads.reset_state) std::fill(grads.reset_state, grads.reset_state + scan.columns(), 0.0f);
  if (a.T * scan.columns() == 0) return;
  if (split == LinearSplit::kTime) return backward_in_chunks(a, grads, scan);
  share_columns(a, split, true, [&](Range steps, Range columns) {
    scan.backward(grads, grads.initial, grads.reset_state, steps, columns);
  });
}

}  // namespace unspool::UNSPOOL_TARGET
