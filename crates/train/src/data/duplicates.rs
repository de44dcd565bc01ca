//! Images that are one and the same: byte by byte, nearly so, or mirrored.

use std::collections::HashMap;

use super::survey::Facts;
use super::{Split, near};

/// How alike the images of a group are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Likeness {
    /// The same bytes.
    Exact,
    /// The same picture: encoded again, slightly larger, brighter or moved.
    Near,
    /// The same picture, left and right exchanged.
    Mirrored,
}

impl Likeness {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        ["exact", "near", "mirrored"][self as usize]
    }
}

/// A sample's place in its dataset, and its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Its split.
    pub split: Split,
    /// Its place in the split.
    pub index: usize,
    /// Its class.
    pub label: usize,
}

/// Two or more samples of one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// How alike they are: the weakest link.
    pub likeness: Likeness,
    /// In dataset order.
    pub members: Vec<Member>,
}

impl Group {
    /// Whether `split` holds a picture that train has too.
    pub fn is_leak_of(&self, split: Split) -> bool {
        split != Split::Train && self.first_in(split).is_some() && self.first_in(Split::Train).is_some()
    }

    /// Whether a picture to be measured on is one that was learned from.
    pub fn is_leak(&self) -> bool {
        Split::ALL.into_iter().any(|split| self.is_leak_of(split))
    }

    /// Whether its members' labels differ.
    pub fn is_conflict(&self) -> bool {
        self.members.iter().any(|member| member.label != self.members[0].label)
    }

    /// Its first member in a split.
    pub fn first_in(&self, split: Split) -> Option<Member> {
        self.members.iter().find(|member| member.split == split).copied()
    }
}

/// How many images of each split are in train as well; none for train itself.
pub fn leaks(groups: &[Group]) -> [usize; 3] {
    Split::ALL.map(|split| {
        let leaked = groups.iter().filter(|group| group.is_leak_of(split));
        leaked.flat_map(|group| &group.members).filter(|member| member.split == split).count()
    })
}

/// Images with the same bytes, in dataset order.
pub(super) fn exact(facts: &[Vec<Facts>; 3]) -> Vec<Group> {
    let mut groups = same_content(facts);
    groups.retain(|group| group.members.len() > 1);
    groups
}

/// Every image in the group of its content.
fn same_content(facts: &[Vec<Facts>; 3]) -> Vec<Group> {
    let (mut groups, mut by_digest) = (Vec::<Group>::new(), HashMap::new());
    for (split, facts) in Split::ALL.into_iter().zip(facts) {
        for (index, facts) in facts.iter().enumerate() {
            let member = Member { split, index, label: facts.label };
            let at = *by_digest.entry(facts.digest).or_insert(groups.len());
            match groups.get_mut(at) {
                Some(group) => group.members.push(member),
                None => groups.push(Group { likeness: Likeness::Exact, members: vec![member] }),
            }
        }
    }
    groups
}

/// Exact and near copies together, then the mirrored ones.
pub(super) fn all(facts: &[Vec<Facts>; 3], threads: usize) -> Vec<Group> {
    let contents = same_content(facts);
    let fingerprint = |group: &Group| {
        let first = group.members[0];
        facts[first.split as usize][first.index].fingerprint.as_deref()
    };
    // Pictures of one shade have no fingerprint; their exact copies stay.
    let fingerprints: Vec<_> = contents.iter().map(fingerprint).collect();
    let pairs = near::pairs(&fingerprints, threads);
    let mut sets = Sets::new(contents.len());
    pairs.iter().filter(|pair| !pair.mirrored).for_each(|pair| sets.join(pair.a, pair.b));
    let mut groups = vec![Vec::new(); contents.len()];
    (0..contents.len()).for_each(|i| groups[sets.of(i)].push(i));
    let mut mirrored: Vec<(usize, usize)> = pairs
        .iter()
        .filter(|pair| pair.mirrored)
        .map(|pair| (sets.of(pair.a), sets.of(pair.b)))
        .filter(|(a, b)| a != b)
        .collect();
    mirrored.sort_unstable();
    mirrored.dedup();
    let united = |parts: &[usize], likeness| {
        let mut members: Vec<Member> = parts.iter().flat_map(|&i| contents[i].members.clone()).collect();
        members.sort_unstable();
        Group { likeness, members }
    };
    let copies = groups.iter().filter_map(|parts| match parts.as_slice() {
        [] => None,
        [one] => (contents[*one].members.len() > 1).then(|| contents[*one].clone()),
        many => Some(united(many, Likeness::Near)),
    });
    let mirrored = mirrored.iter().map(|&(a, b)| united(&[groups[a][0], groups[b][0]], Likeness::Mirrored));
    copies.chain(mirrored).collect()
}

/// Disjoint sets (Tarjan 1975), each known by its smallest element.
struct Sets(Vec<usize>);

impl Sets {
    fn new(n: usize) -> Sets {
        Sets((0..n).collect())
    }

    fn of(&mut self, i: usize) -> usize {
        let mut root = i;
        while self.0[root] != root {
            self.0[root] = self.0[self.0[root]];
            root = self.0[root];
        }
        root
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.of(a), self.of(b));
        self.0[a.max(b)] = a.min(b);
    }
}
