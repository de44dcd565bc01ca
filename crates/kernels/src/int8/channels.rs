//! Channels that change their place: joined, cut, shuffled, or all of it at once.

use super::form::Form;
use super::table::{Lookup, Table, lookup_of};
use super::{QUAD, quads, quads_len};
use crate::{Io, Isa, Kernel, Layout, Worker};

/// A tensor that channels are taken from, and how its bytes become bytes of the result (a change of scale, say).
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its channels.
    pub channels: usize,
    /// Applied to each byte.
    pub table: Option<Table>,
}

/// A channel of the result: the number of the part, and the channel there.
pub type Pick = (usize, usize);

/// Kernel: bytes of `[n, channels of the part, spatial]` for each part `->` those of `[n, picks, spatial]`, all in `layout`
/// (blocked: quads). Four channels in a row that begin at a multiple of four are copied as they lie.
///
/// # Panics
/// Where a pick is of no part, or beyond its channels.
pub fn channels(
    isa: Isa,
    layout: Layout,
    n: usize,
    spatial: usize,
    parts: &[Part],
    picks: Vec<Pick>,
) -> Box<dyn Kernel> {
    channels_with(Form::of(isa), layout, n, spatial, parts, picks)
}

fn channels_with(
    form: Form,
    layout: Layout,
    n: usize,
    spatial: usize,
    parts: &[Part],
    picks: Vec<Pick>,
) -> Box<dyn Kernel> {
    for &(part, channel) in &picks {
        assert!(channel < parts[part].channels, "channel {channel} of {:?}", parts[part]);
    }
    Box::new(Channels {
        name: format!("channels int8 {form}"),
        layout,
        n,
        spatial,
        parts: parts.iter().map(|p| p.channels).collect(),
        tables: parts.iter().map(|p| lookup_of(form, p.table.as_ref())).collect(),
        picks,
    })
}

struct Channels {
    name: String,
    layout: Layout,
    n: usize,
    spatial: usize,
    /// Channels of each part.
    parts: Vec<usize>,
    tables: Vec<Option<Lookup>>,
    picks: Vec<Pick>,
}

impl Channels {
    /// The plane of a part that holds a channel.
    fn plane<'a>(&self, io: &Io<'a>, image: usize, (part, channel): Pick) -> &'a [u8] {
        let (planes, at, len) = match self.layout {
            Layout::Plain => (self.parts[part], channel, self.spatial),
            Layout::Blocked => (quads(self.parts[part]), channel / QUAD, QUAD * self.spatial),
        };
        &io.input::<u8>(part)[(image * planes + at) * len..][..len]
    }

    fn bytes(&self, channels: usize) -> usize {
        match self.layout {
            Layout::Plain => self.n * channels * self.spatial,
            Layout::Blocked => quads_len(self.n, channels, self.spatial),
        }
    }

    /// Fills the plane of up to four picks.
    fn quads(&self, io: &Io<'_>, image: usize, picks: &[Pick], y: &mut [u8]) {
        let (part, first) = picks[0];
        let in_a_row = picks.iter().enumerate().all(|(i, &pick)| pick == (part, first + i));
        if first.is_multiple_of(QUAD) && in_a_row {
            self.copy(part, self.plane(io, image, picks[0]), y);
        } else if picks.iter().any(|&(part, _)| self.tables[part].is_some()) {
            y.fill(0);
            for (lane, &pick) in picks.iter().enumerate() {
                let (x, table) = (self.plane(io, image, pick), self.tables[pick.0].as_ref());
                for (y, x) in y.chunks_exact_mut(QUAD).zip(x.chunks_exact(QUAD)) {
                    let byte = x[pick.1 % QUAD];
                    y[lane] = table.map_or(byte, |table| table.get(byte));
                }
            }
        } else {
            let lanes = std::array::from_fn(|lane| {
                let &pick = picks.get(lane).unwrap_or(&picks[0]);
                let mask = if lane < picks.len() { 0xff } else { 0 };
                Lane { plane: self.plane(io, image, pick), shift: 8 * (pick.1 % QUAD) as u32, mask }
            });
            collect(lanes, y);
        }
    }

    fn copy(&self, part: usize, x: &[u8], y: &mut [u8]) {
        match &self.tables[part] {
            Some(table) => table.copy(x, y),
            None => y.copy_from_slice(x),
        }
    }
}

/// Where a lane of quads comes from.
struct Lane<'a> {
    plane: &'a [u8],
    /// To the channel's bits of a quad.
    shift: u32,
    /// What of them counts.
    mask: u32,
}

/// Quads of one channel from each lane, a quad at a time: compilers make vectors of it.
fn collect(lanes: [Lane<'_>; QUAD], y: &mut [u8]) {
    let planes = lanes.each_ref().map(|lane| lane.plane.as_chunks::<QUAD>().0);
    let [a, b, c, d] = planes;
    let quads = a.iter().zip(b).zip(c.iter().zip(d));
    for (y, ((a, b), (c, d))) in y.as_chunks_mut::<QUAD>().0.iter_mut().zip(quads) {
        let byte = |lane: usize, quad: &[u8; QUAD]| {
            (u32::from_le_bytes(*quad) >> lanes[lane].shift & lanes[lane].mask) << (8 * lane)
        };
        *y = (byte(0, a) | byte(1, b) | byte(2, c) | byte(3, d)).to_le_bytes();
    }
}

impl Kernel for Channels {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let y = io.output::<u8>(0);
        for (part, &channels) in self.parts.iter().enumerate() {
            assert_eq!(io.input::<u8>(part).len(), self.bytes(channels), "{}: input {part}", self.name);
        }
        assert_eq!(y.len(), self.bytes(self.picks.len()), "{}: output", self.name);
        let (at_once, plane) = match self.layout {
            Layout::Plain => (1, self.spatial),
            Layout::Blocked => (QUAD, QUAD * self.spatial),
        };
        let planes = self.picks.len().div_ceil(at_once);
        for p in worker.share(self.n * planes) {
            let (image, first) = (p / planes, at_once * (p % planes));
            let picks = &self.picks[first..self.picks.len().min(first + at_once)];
            // SAFETY: planes are disjoint.
            let y = unsafe { y.slice_mut(p * plane..(p + 1) * plane) };
            match self.layout {
                Layout::Plain => self.copy(picks[0].0, self.plane(io, image, picks[0]), y),
                Layout::Blocked => self.quads(io, image, picks, y),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::testing::{self, bytes, run};

    /// Parts of these channels, every other one with a table if there are any, and the picks of them, in both layouts.
    fn check(channels: &[usize], picks: &[Pick], tables: bool) {
        for (n, spatial) in [(1, 1), (2, 35), (1, 64), (1, 0)] {
            let table = |i: usize| (tables && i % 2 == 1).then(|| Table::new(|x| x / 2 + 11));
            let parts: Vec<Part> =
                (0..channels.len()).map(|i| Part { channels: channels[i], table: table(i) }).collect();
            let logical: Vec<Vec<u8>> =
                (0..channels.len()).map(|i| bytes(i as u64, n * channels[i] * spatial)).collect();
            let mut want = Vec::new();
            for image in 0..n {
                for &(part, channel) in picks {
                    let x = &logical[part][(image * channels[part] + channel) * spatial..][..spatial];
                    let table = parts[part].table.as_ref();
                    want.extend(x.iter().map(|&x| table.map_or(x, |table| table.get(x))));
                }
            }
            let in_quads: Vec<Vec<u8>> =
                channels.iter().zip(&logical).map(|(&c, x)| testing::to_quads(x, c, spatial)).collect();
            for form in Form::available() {
                for (layout, x) in [(Layout::Plain, &logical), (Layout::Blocked, &in_quads)] {
                    let kernel = channels_with(form, layout, n, spatial, &parts, picks.to_vec());
                    let x: Vec<&[u8]> = x.iter().map(|x| &x[..]).collect();
                    let got = match layout {
                        Layout::Plain => run(&*kernel, &x, want.len()),
                        Layout::Blocked => {
                            let y = run(&*kernel, &x, quads_len(n, picks.len(), spatial));
                            testing::from_quads(&y, n, picks.len(), spatial)
                        }
                    };
                    assert_eq!(got, want, "{form} {layout:?} {channels:?} {picks:?} {spatial}");
                }
            }
        }
    }

    fn of_part(part: usize, channels: std::ops::Range<usize>) -> impl Iterator<Item = Pick> {
        channels.map(move |channel| (part, channel))
    }

    #[test]
    fn channels_are_joined_in_turn() {
        for channels in [&[4, 8][..], &[1, 2, 3, 17], &[5], &[16, 3, 4], &[4, 0, 4]] {
            let picks: Vec<Pick> =
                (0..channels.len()).flat_map(|part| of_part(part, 0..channels[part])).collect();
            check(channels, &picks, true);
            check(channels, &picks, false);
        }
    }

    #[test]
    fn channels_are_cut() {
        for (channels, range) in
            [(8, 4..8), (8, 0..4), (9, 3..8), (7, 4..6), (33, 1..33), (17, 16..17), (5, 0..5)]
        {
            check(&[channels], &of_part(0, range.clone()).collect::<Vec<_>>(), false);
            check(&[1, channels], &of_part(1, range).collect::<Vec<_>>(), true);
        }
    }

    #[test]
    fn channels_are_shuffled() {
        for (groups, each) in [(2, 4), (2, 29), (3, 5), (4, 16), (1, 3)] {
            let picks: Vec<Pick> = (0..groups * each).map(|i| (0, i % groups * each + i / groups)).collect();
            check(&[groups * each], &picks, false);
            let halves: Vec<Pick> = picks.iter().map(|&(_, c)| (c % 2, c / 2)).collect();
            check(&[groups * each; 2], &halves, true);
            check(&[groups * each; 2], &halves, false);
        }
    }
}
