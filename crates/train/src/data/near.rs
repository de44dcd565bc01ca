//! Which pictures are near copies: few bits of their hashes differ, and so little of their edges that it is a copy rather
//! than another picture of the same kind.
//!
//! Hashes alone would lie where all pictures are alike, as small ones of one subject are. So candidates are compared edge
//! by edge, one pixel of the thumbnail up or down, left or right, and a pair has to be much more alike than either is
//! to its other neighbours: among a thousand plain trousers nothing is told to be a copy unless it clearly is one.

use super::fingerprint::{Fingerprint, SIDE};
use super::parallel;

/// Two pictures, by their places in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    pub(super) a: usize,
    pub(super) b: usize,
    /// Whether one is the other's mirror image.
    pub(super) mirrored: bool,
}

/// Largest number of differing bits of a candidate's hash. Pictures without relation differ in 31 or 32 of 63.
const BITS: u32 = 16;
/// Candidates that are compared, of each kind: those with the fewest differing bits.
const CANDIDATES: usize = 16;
/// Smallest likeness of a copy.
const ALIKE: f32 = 0.8;
/// A picture's neighbour of this rank (and beyond) counts as another picture.
const OTHERS: usize = 4;
/// Likeness of the neighbours that a picture without any is taken to have.
const UNRELATED: f32 = 0.5;
/// A copy's distance (1 less likeness) over that of other pictures is at most this.
const RATIO: f32 = 0.25;

/// A candidate with its likeness, -1 to 1.
#[derive(Clone, Copy)]
struct Neighbour {
    place: usize,
    mirrored: bool,
    likeness: f32,
}

/// All near copies among `fingerprints`, sorted; a picture without a fingerprint has none.
pub(super) fn pairs(fingerprints: &[Option<&Fingerprint>], threads: usize) -> Vec<Pair> {
    let known: Vec<(usize, &Fingerprint)> =
        fingerprints.iter().enumerate().filter_map(|(i, f)| Some((i, (*f)?))).collect();
    let hashes: Vec<u64> = known.iter().map(|(_, f)| f.hash).collect();
    let norms = parallel::map(threads, &known, |(_, f)| Edges::of(&f.thumbnail).norms());
    let places: Vec<usize> = (0..known.len()).collect();
    let neighbours = parallel::map(threads, &places, |&i| neighbours(&known, &hashes, &norms, i));
    let others: Vec<f32> = neighbours.iter().map(|n| others(n)).collect();
    let mut pairs = Vec::new();
    for (i, neighbours) in neighbours.iter().enumerate() {
        for n in neighbours {
            let bound = RATIO * (1.0 - others[i].max(others[n.place]));
            if n.likeness >= ALIKE && 1.0 - n.likeness <= bound {
                let (a, b) = (known[i].0.min(known[n.place].0), known[i].0.max(known[n.place].0));
                pairs.push(Pair { a, b, mirrored: n.mirrored });
            }
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    // Of a picture that is its own mirror image, a copy is a copy.
    pairs.dedup_by_key(|pair| (pair.a, pair.b));
    pairs
}

/// How alike a picture is to others that are no copies of it. `neighbours` begin with the most alike.
fn others(neighbours: &[Neighbour]) -> f32 {
    neighbours.get(OTHERS - 1).map_or(UNRELATED, |n| n.likeness.max(UNRELATED))
}

/// The candidates of picture `i`, the most alike first.
fn neighbours(known: &[(usize, &Fingerprint)], hashes: &[u64], norms: &[Norms], i: usize) -> Vec<Neighbour> {
    let own = known[i].1;
    let plain = closest(hashes, own.hash, i).into_iter().map(|place| (place, false));
    let mirrored = closest(hashes, own.mirrored_hash(), i).into_iter().map(|place| (place, true));
    let edges = [Edges::of(&own.thumbnail), Edges::of(&own.mirrored())];
    let compare = |(place, mirrored): (usize, bool)| {
        let theirs = Edges::of(&known[place].1.thumbnail);
        // The middle of a picture is that of its mirror image: they have one norm.
        let likeness = edges[usize::from(mirrored)].likeness(norms[i][MIDDLE], &theirs, &norms[place]);
        Neighbour { place, mirrored, likeness }
    };
    let mut all: Vec<Neighbour> = plain.chain(mirrored).map(compare).collect();
    all.sort_by(|a, b| b.likeness.total_cmp(&a.likeness).then(a.place.cmp(&b.place)));
    // A place stands once, with its better side.
    let mut seen = std::collections::HashSet::new();
    all.retain(|n| seen.insert(n.place));
    all
}

/// Places of the hashes nearest to `hash`, without `own`: the fewest differing bits, then the first.
fn closest(hashes: &[u64], hash: u64, own: usize) -> Vec<usize> {
    let mut found: Vec<(u32, usize)> = Vec::new();
    within(hashes, hash, &mut |bits, place| {
        if place != own {
            found.push((bits, place));
        }
    });
    if found.len() > CANDIDATES {
        found.select_nth_unstable(CANDIDATES);
        found.truncate(CANDIDATES);
    }
    found.into_iter().map(|(_, place)| place).collect()
}

/// Tells `take` every hash that differs in at most `BITS` bits. This is the one step whose time is quadratic in the number
/// of pictures: an exclusive or and a count of bits for each pair.
fn within(hashes: &[u64], hash: u64, take: &mut dyn FnMut(u32, usize)) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("popcnt") {
        // SAFETY: the processor has the instruction.
        return unsafe { within_popcnt(hashes, hash, take) };
    }
    scan(hashes, hash, take);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "popcnt")]
fn within_popcnt(hashes: &[u64], hash: u64, take: &mut dyn FnMut(u32, usize)) {
    scan(hashes, hash, take);
}

#[inline(always)]
fn scan(hashes: &[u64], hash: u64, take: &mut dyn FnMut(u32, usize)) {
    for (place, other) in hashes.iter().enumerate() {
        let bits = (hash ^ other).count_ones();
        if bits <= BITS {
            take(bits, place);
        }
    }
}

/// Rows and columns that have neighbours on both sides.
const INNER: usize = SIDE - 2;
/// Those that stay inside when moved by one.
const COMPARED: usize = INNER - 2;

/// Differences of grey values, of each pixel those across and those down: brightness and contrast do not matter.
struct Edges(Vec<i16>);

impl Edges {
    fn of(thumbnail: &[u8; SIDE * SIDE]) -> Edges {
        let mut edges = Vec::with_capacity(2 * INNER * INNER);
        for y in 1..=INNER {
            let row = |y: usize| &thumbnail[y * SIDE..][..SIDE];
            let (above, here, below) = (row(y - 1), row(y), row(y + 1));
            for x in 1..=INNER {
                edges.push(i16::from(here[x + 1]) - i16::from(here[x - 1]));
                edges.push(i16::from(below[x]) - i16::from(above[x]));
            }
        }
        Edges(edges)
    }

    /// Of each place.
    fn norms(&self) -> Norms {
        std::array::from_fn(|i| (products(&self.0, &self.0, place(i), place(i)) as f32).sqrt())
    }

    /// The cosine between the edges of two pictures, at the best of nine places: 1 for copies, about 0 without relation.
    fn likeness(&self, norm: f32, other: &Edges, norms: &Norms) -> f32 {
        let cosine = |i| {
            let both = products(&self.0, &other.0, place(MIDDLE), place(i));
            both as f32 / (norm * norms[i]).max(1.0)
        };
        (0..9).map(cosine).fold(-1.0, f32::max)
    }
}

/// Lengths of a picture's edges as vectors, at nine places: moved by -1, 0 or 1 down and across.
type Norms = [f32; 9];

/// The place that is not moved.
const MIDDLE: usize = 4;

/// Row and column where a place begins.
fn place(i: usize) -> (usize, usize) {
    (i / 3, i % 3)
}

/// The sum of the products of two squares of `COMPARED` pixels, which begin at these rows and columns.
fn products(a: &[i16], b: &[i16], (ay, ax): (usize, usize), (by, bx): (usize, usize)) -> i64 {
    let row = |edges: &[i16], y: usize, x: usize| -> [i16; 2 * COMPARED] {
        let at = 2 * (y * INNER + x);
        edges[at..at + 2 * COMPARED].try_into().expect("a row of a square inside")
    };
    let dot = |a: [i16; 2 * COMPARED], b: [i16; 2 * COMPARED]| -> i32 {
        a.iter().zip(&b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
    };
    (0..COMPARED).map(|i| i64::from(dot(row(a, ay + i, ax), row(b, by + i, bx)))).sum()
}

#[cfg(test)]
mod tests {
    use espalier_graph::random::Random;
    use espalier_tasks::Image;

    use super::*;

    /// Blocks of random grey values, with a little noise of another seed.
    fn picture(seed: u64, noise: u64) -> Image {
        let (mut blocks, mut grain) = (Random::new(seed, 0), Random::new(noise, 1));
        let values: Vec<f32> = (0..64).map(|_| blocks.range(40.0, 200.0)).collect();
        let pixel = |i: usize| values[i / 4 / SIDE * 8 + i % SIDE / 4] + grain.range(-3.0, 3.0);
        Image::new(SIDE, SIDE, 1, (0..SIDE * SIDE).map(pixel).map(|v| v as u8).collect()).unwrap()
    }

    fn mirrored(image: &Image) -> Image {
        let pixels = image.pixels.chunks_exact(SIDE).flat_map(|row| row.iter().rev().copied()).collect();
        Image { pixels, ..*image }
    }

    fn check(images: &[Image], expected: &[(usize, usize, bool)]) {
        let fingerprints: Vec<Option<Fingerprint>> = images.iter().map(Fingerprint::of).collect();
        let fingerprints: Vec<Option<&Fingerprint>> = fingerprints.iter().map(Option::as_ref).collect();
        for threads in [1, 3] {
            let found: Vec<_> =
                pairs(&fingerprints, threads).iter().map(|p| (p.a, p.b, p.mirrored)).collect();
            assert_eq!(found, expected, "{threads} threads");
        }
    }

    #[test]
    fn copies_and_mirror_images_are_told_from_others() {
        let mut images: Vec<Image> = (0..30).map(|seed| picture(seed, seed)).collect();
        check(&images, &[]);
        images.extend([picture(3, 99), mirrored(&picture(7, 98))]);
        check(&images, &[(3, 30, false), (7, 31, true)]);
    }

    #[test]
    fn among_pictures_of_one_kind_only_a_clear_copy_counts() {
        let kind = |noise| {
            let mut image = picture(1, noise);
            // Each differs from the others in some blocks.
            let mut random = Random::new(noise, 2);
            for _ in 0..6 {
                let at = random.below(64);
                let value = random.range(40.0, 200.0) as u8;
                for i in (0..SIDE * SIDE).filter(|i| i / 4 / SIDE * 8 + i % SIDE / 4 == at) {
                    image.pixels[i] = value;
                }
            }
            image
        };
        let mut images: Vec<Image> = (0..40).map(kind).collect();
        check(&images, &[]);
        images.push(images[5].clone());
        check(&images, &[(5, 40, false)]);
    }

    #[test]
    fn one_shade_has_no_fingerprint() {
        let plain = || Image::new(9, 9, 3, vec![77; 243]).unwrap();
        assert!(Fingerprint::of(&plain()).is_none());
        check(&[plain(), plain()], &[]);
    }

    #[test]
    fn mirroring_flips_known_bits() {
        for seed in 0..20 {
            let (one, other) =
                (Fingerprint::of(&picture(seed, 0)), Fingerprint::of(&mirrored(&picture(seed, 0))));
            let (one, other) = (one.unwrap(), other.unwrap());
            assert_eq!((one.mirrored_hash(), one.mirrored()), (other.hash, other.thumbnail));
        }
    }
}
