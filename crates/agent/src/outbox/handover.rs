//! Between those who push insights and the thread that writes them.

use std::collections::VecDeque;
use std::sync::Arc;

use espalier_wire::{Counts, MAX_INSIGHT_BYTES, Priority};

/// What waits to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// An insight as JSON.
    Insight(Priority, Arc<str>),
    /// Insights that found no room: the numbers of those that stood here.
    Dropped(Counts),
}

/// Insights in these slots, and those whose numbers alone are left.
pub fn counts<'a>(slots: impl IntoIterator<Item = &'a Slot>) -> (u64, Counts) {
    slots.into_iter().fold((0, Counts::default()), |(insights, dropped), slot| match slot {
        Slot::Insight(..) => (insights + 1, dropped),
        Slot::Dropped(counts) => (insights, dropped + *counts),
    })
}

/// Insights in memory, in order, until a disk has them. It is bounded: where a disk cannot be written for long, those that
/// matter least are dropped, the oldest first, and counted at the place where they stood.
#[derive(Debug)]
pub struct Handover {
    slots: VecDeque<Slot>,
    waiting: usize,
    bytes: usize,
    max_count: usize,
    max_bytes: usize,
}

impl Handover {
    /// An empty one for so many insights and bytes of their JSON.
    pub fn new(max_count: usize, max_bytes: usize) -> Handover {
        Handover { slots: VecDeque::new(), waiting: 0, bytes: 0, max_count, max_bytes }
    }

    /// Takes an insight. One of more than [`MAX_INSIGHT_BYTES`] is dropped.
    pub fn push(&mut self, priority: Priority, json: Arc<str>) {
        let fits = json.len() <= MAX_INSIGHT_BYTES;
        self.add(if fits { Slot::Insight(priority, json) } else { Slot::Dropped(Counts::one(priority)) });
        self.trim();
    }

    /// Takes a slot of another handover.
    pub fn put(&mut self, slot: Slot) {
        self.add(slot);
        self.trim();
    }

    /// Up to `count` slots, for the disk.
    pub fn take(&mut self, count: usize) -> Vec<Slot> {
        let taken: Vec<Slot> = self.slots.drain(..count.min(self.slots.len())).collect();
        taken.iter().for_each(|slot| self.weigh(slot, false));
        taken
    }

    /// Takes back what the disk did not.
    pub fn put_back(&mut self, slots: Vec<Slot>) {
        let newer = std::mem::take(&mut self.slots);
        (self.waiting, self.bytes) = (0, 0);
        slots.into_iter().chain(newer).for_each(|slot| self.add(slot));
        self.trim();
    }

    /// Insights that wait, and those that were dropped and whose number is not written yet.
    pub fn counts(&self) -> (u64, Counts) {
        counts(&self.slots)
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn add(&mut self, slot: Slot) {
        if let (Slot::Dropped(more), Some(Slot::Dropped(counts))) = (&slot, self.slots.back_mut()) {
            *counts += *more;
        } else {
            self.weigh(&slot, true);
            self.slots.push_back(slot);
        }
    }

    fn weigh(&mut self, slot: &Slot, comes: bool) {
        if let Slot::Insight(_, json) = slot {
            let signed = |count: usize, by: usize| if comes { count + by } else { count - by };
            (self.waiting, self.bytes) = (signed(self.waiting, 1), signed(self.bytes, json.len()));
        }
    }

    fn trim(&mut self) {
        while self.waiting > self.max_count || self.bytes > self.max_bytes {
            let priority = |slot: &Slot| match slot {
                Slot::Insight(priority, _) => Some(*priority),
                Slot::Dropped(_) => None,
            };
            let places = self.slots.iter().enumerate();
            let (priority, at) = places
                .filter_map(|(at, slot)| Some((priority(slot)?, at)))
                .min()
                .expect("what is too much is there");
            let dropped = Slot::Dropped(Counts::one(priority));
            let insight = std::mem::replace(&mut self.slots[at], dropped);
            self.weigh(&insight, false);
            self.merge(at + 1);
            self.merge(at);
        }
    }

    /// Makes one of the slot at `at` and that before it, if both are of dropped ones.
    fn merge(&mut self, at: usize) {
        let Some(before) = at.checked_sub(1) else { return };
        if let (Some(Slot::Dropped(a)), Some(Slot::Dropped(b))) = (self.slots.get(before), self.slots.get(at))
        {
            self.slots[before] = Slot::Dropped(*a + *b);
            self.slots.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use Priority::{High, Low, Normal};

    use super::*;

    fn pushed(max_count: usize, max_bytes: usize, priorities: &[Priority]) -> Handover {
        let mut handover = Handover::new(max_count, max_bytes);
        let push =
            |(number, &priority): (usize, &Priority)| handover.push(priority, number.to_string().into());
        priorities.iter().enumerate().for_each(push);
        handover
    }

    fn show(slots: &[Slot]) -> String {
        let one = |slot: &Slot| match slot {
            Slot::Insight(_, json) => json.to_string(),
            Slot::Dropped(c) => format!("-{}{}{}", c.low, c.normal, c.high),
        };
        slots.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_matters_least_goes_first_and_is_counted_where_it_stood() {
        let check = |max_count, priorities: &[Priority], expected: &str| {
            let mut handover = pushed(max_count, 1 << 20, priorities);
            assert_eq!(show(&handover.take(99)), expected);
            assert_eq!(handover.counts().0, 0);
        };
        check(3, &[High, Low, Normal], "0 1 2");
        check(2, &[High, Low, Normal], "0 -100 2");
        check(2, &[High, High, Low], "0 1 -100");
        check(2, &[Low, High, Low, Normal], "-100 1 -100 3");
        check(1, &[Low, Low, High, Normal], "-200 2 -010");
        check(1, &[High, High, High], "-002 2");
    }

    #[test]
    fn bytes_are_limited_too_and_giants_are_not_taken() {
        let mut handover = pushed(10, 3, &[Normal; 4]);
        assert_eq!(handover.counts(), (3, Counts::one(Normal)));
        handover.push(High, "x".repeat(MAX_INSIGHT_BYTES + 1).into());
        assert_eq!(show(&handover.take(99)), "-010 1 2 3 -001");
    }

    #[test]
    fn what_comes_back_stands_before_what_came_later() {
        let mut handover = pushed(2, 1 << 20, &[Low, High, High]);
        let taken = handover.take(2);
        handover.push(Normal, "later".into());
        handover.put_back(taken);
        assert_eq!(handover.counts(), (2, Counts { low: 1, normal: 1, high: 0 }));
        assert_eq!(show(&handover.take(99)), "-100 1 2 -010");
    }
}
