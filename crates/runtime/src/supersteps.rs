//! Supersteps: steps that follow one another without the workers waiting for each other in between (the word is that of
//! Valiant, "A bridging model for parallel computation", 1990).
//!
//! Where a kernel writes each worker's rows of a tensor and the next one reads each worker's own rows of it, a worker can
//! go on as soon as it is done itself: a 1x1 convolution after a depthwise one, an addition, the next 1x1 convolution.
//! Waiting costs a fraction of a microsecond where cores are near each other, several where they are far, and is for the slower
//! one every time.
//! Nothing is computed in another order by any worker: each does its rows of one layer after those of the other.

use std::ops::Range;

use crate::lower::{Draft, Storage};

/// Most bytes of what a superstep writes: its memory cannot be used anew before the end, so that large tensors would leave
/// the caches; and beside them the wait is little.
const MOST_BYTES: usize = 1 << 20;

/// The supersteps of `steps` for so many workers, in order; together they are all steps.
pub(crate) fn supersteps(steps: &[Draft], workers: usize) -> Vec<Range<usize>> {
    let mut supersteps: Vec<Range<usize>> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        match supersteps.last_mut() {
            Some(superstep) if workers > 1 && joins(&steps[superstep.clone()], step, workers) => {
                superstep.end = index + 1
            }
            _ => supersteps.push(index..index + 1),
        }
    }
    supersteps
}

/// Whether a worker that is done with its part of `superstep` may begin with `step`, whatever the others do.
fn joins(superstep: &[Draft], step: &Draft, workers: usize) -> bool {
    let is_new = |(storage, _): &(Storage, usize)| {
        superstep
            .iter()
            .all(|before| before.inputs.iter().chain(&before.outputs).all(|(other, _)| other != storage))
    };
    let is_own = |(index, (storage, _)): (usize, &(Storage, usize))| {
        let mut makers =
            superstep.iter().filter(|before| before.outputs.iter().any(|(made, _)| made == storage));
        makers.all(|maker| {
            let (written, read) = (maker.kernel.writes_rows(workers), step.kernel.reads_rows(index, workers));
            written.zip(read).is_some_and(|(written, read)| written.parts_as(&read, workers))
        })
    };
    let bytes = superstep.iter().chain([step]).flat_map(|step| &step.outputs).map(|(_, bytes)| bytes);
    step.outputs.iter().all(is_new)
        && step.inputs.iter().enumerate().all(is_own)
        && bytes.sum::<usize>() <= MOST_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_kernels::{Io, Kernel, Rows, Worker};

    /// Promises what it is told to.
    struct Promise {
        writes: Option<Rows>,
        reads: Option<Rows>,
    }

    impl Kernel for Promise {
        fn name(&self) -> String {
            "promise".into()
        }

        fn writes_rows(&self, _workers: usize) -> Option<Rows> {
            self.writes
        }

        fn reads_rows(&self, index: usize, _workers: usize) -> Option<Rows> {
            self.reads.filter(|_| index == 0)
        }

        fn run(&self, _: &Io<'_>, _: Worker, _: &mut [f32]) {}
    }

    /// A step from storages to another; rows of 8 bytes, as many as it says.
    fn step(inputs: &[usize], output: usize, writes: usize, reads: usize) -> Draft {
        let rows = |rows: usize| (rows > 0).then_some(Rows { images: 1, planes: 1, rows, bytes: 8 });
        let place = |&storage: &usize| (Storage(storage), 80);
        Draft {
            kernel: Box::new(Promise { writes: rows(writes), reads: rows(reads) }),
            inputs: inputs.iter().map(place).collect(),
            outputs: vec![place(&output)],
            node: "a node".into(),
            op: "QAdd",
            macs: 0,
        }
    }

    /// Where supersteps end for two workers; one worker has no supersteps of several steps.
    fn check(steps: Vec<Draft>, want: &[usize]) {
        let ends = |workers: usize| supersteps(&steps, workers).iter().map(|s| s.end).collect::<Vec<_>>();
        assert_eq!(ends(2), want);
        assert_eq!(ends(1), (1..=steps.len()).collect::<Vec<_>>());
    }

    #[test]
    fn only_what_reads_its_own_rows_goes_on() {
        check(vec![], &[]);
        check(vec![step(&[0], 1, 10, 10), step(&[1], 2, 10, 10), step(&[2], 3, 0, 10)], &[3]);
        // Other rows, all rows, or written in another way.
        check(vec![step(&[0], 1, 10, 10), step(&[1], 2, 10, 5)], &[1, 2]);
        check(vec![step(&[0], 1, 10, 10), step(&[1], 2, 10, 0)], &[1, 2]);
        check(vec![step(&[0], 1, 0, 10), step(&[1], 2, 10, 10)], &[1, 2]);
        // The second input is read whole: made before the superstep it may be, in it not.
        check(vec![step(&[0], 1, 10, 10), step(&[1, 0], 2, 10, 10)], &[2]);
        check(vec![step(&[0], 1, 10, 10), step(&[0, 1], 2, 10, 10)], &[1, 2]);
        // Not only the step before counts.
        check(vec![step(&[0], 1, 10, 10), step(&[1], 2, 10, 10), step(&[2, 1], 3, 10, 10)], &[2, 3]);
        // What others may still read or write is not written.
        check(vec![step(&[0], 1, 10, 10), step(&[1], 0, 10, 10)], &[1, 2]);
        check(vec![step(&[0], 1, 10, 10), step(&[2], 1, 10, 10)], &[1, 2]);
    }

    #[test]
    fn rows_of_another_length_may_give_the_same_parts() {
        let written = Rows { images: 2, planes: 3, rows: 4, bytes: 16 };
        let read = |rows, bytes| Rows { rows, bytes, ..written };
        for (other, workers, is_same) in [
            (read(4, 16), 3, true),
            (read(2, 32), 2, true),
            (read(2, 32), 4, true),
            (read(2, 32), 8, false),
            (read(2, 32), 3, false),
            (read(1, 64), 4, false),
            (read(2, 16), 2, false),
            (Rows { images: 1, planes: 6, ..written }, 2, false),
        ] {
            assert_eq!(written.parts_as(&other, workers), is_same, "{other:?} {workers}");
        }
    }

    #[test]
    fn large_tensors_are_waited_for() {
        let large = |inputs: &[usize], output: usize| {
            let mut step = step(inputs, output, 10, 10);
            step.outputs[0].1 = MOST_BYTES / 2;
            step
        };
        check(vec![large(&[0], 1), large(&[1], 2), large(&[2], 3), large(&[3], 4)], &[2, 4]);
    }
}
