//! Memory of a plan: one aligned block, and the planner that lays values out in its arena.

use memmap2::MmapMut;

/// Alignment of every value, in bytes: a cache line and a zmm register.
pub const ALIGN: usize = 64;

/// Rounds `bytes` up to [`ALIGN`].
pub fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

/// Zeroed bytes at a fixed address, aligned to [`ALIGN`].
pub struct Block {
    map: MmapMut,
    first: usize,
    bytes: usize,
}

/// Size of a huge page. With few of them, memory is zeroed in one go when it is first written, not in hundreds of faults.
const HUGE: usize = 2 << 20;

impl Block {
    /// `bytes` zeros. Panics where the system has none to give.
    pub fn new(bytes: usize) -> Self {
        let bytes = aligned(bytes.max(1));
        let slack = if bytes >= HUGE { HUGE } else { 0 };
        let map = MmapMut::map_anon(bytes + slack).unwrap_or_else(|e| panic!("{bytes} bytes of memory: {e}"));
        let first = map.as_ptr().align_offset(slack.max(1));
        // Where there are none, small ones serve.
        #[cfg(target_os = "linux")]
        if slack > 0 {
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Block { map, first, bytes }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Address of byte `offset`, which must lie inside. Access goes through it under the rules of `kernels::Io`.
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.bytes, "offset {offset} of {} bytes", self.bytes);
        self.map.as_ptr().cast_mut().wrapping_add(self.first + offset)
    }
}

/// When a value is needed: from the step that makes it to the last that reads it, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Size in bytes.
    pub bytes: usize,
    /// Step that makes it.
    pub first: usize,
    /// Last step that reads it.
    pub last: usize,
}

impl Interval {
    fn meets(&self, other: &Interval) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Offsets of values in an arena such that values alive at the same time never overlap, and the arena's size.
///
/// Greedy by size (Pisarchyk and Lee 2020, "Efficient memory management for deep neural net inference"): the largest
/// first, each at the lowest gap among those placed that are alive with it.
pub fn plan_arena(values: &[Interval]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(values[i].bytes), values[i].first, i));
    let mut offsets = vec![0; values.len()];
    // Sorted by offset, so that gaps are found in one sweep.
    let mut placed: Vec<usize> = Vec::with_capacity(values.len());
    let mut total = 0;
    for i in order {
        let offset = lowest_gap(&values[i], placed.iter().map(|&j| (offsets[j], &values[j])));
        offsets[i] = offset;
        total = total.max(offset + aligned(values[i].bytes));
        let at = placed.partition_point(|&j| offsets[j] <= offset);
        placed.insert(at, i);
    }
    (offsets, total)
}

fn lowest_gap<'a>(value: &Interval, placed: impl Iterator<Item = (usize, &'a Interval)>) -> usize {
    let mut offset = 0;
    for (at, other) in placed.filter(|(_, other)| other.meets(value)) {
        if at >= offset + aligned(value.bytes) {
            break;
        }
        offset = offset.max(at + aligned(other.bytes));
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn live_values_never_overlap(raw in proptest::collection::vec((0usize..5000, 0usize..40, 0usize..40), 0..60)) {
            let values: Vec<Interval> = raw
                .iter()
                .map(|&(bytes, a, b)| Interval { bytes, first: a.min(b), last: a.max(b) })
                .collect();
            let (offsets, total) = plan_arena(&values);
            for (i, a) in values.iter().enumerate() {
                prop_assert!(offsets[i] % ALIGN == 0 && offsets[i] + a.bytes <= total);
                for (j, b) in values.iter().enumerate().skip(i + 1) {
                    let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    prop_assert!(apart || !a.meets(b), "{a:?} at {} and {b:?} at {}", offsets[i], offsets[j]);
                }
            }
            let all: usize = values.iter().map(|v| aligned(v.bytes)).sum();
            prop_assert!(total <= all);
        }
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let values: Vec<Interval> = (0..10).map(|i| Interval { bytes: 640, first: i, last: i + 1 }).collect();
        assert_eq!(plan_arena(&values).1, 1280);
    }
}
