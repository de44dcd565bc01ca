//! Weights to begin with in place of random ones: those of a package, of a safetensors file with PyTorch's names, or of a
//! file of another format, which brings its network along.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail};
use espalier_graph::package::{self, shown};
use espalier_graph::{Graph, Package, PackageError, Tensor, Weights};
use espalier_tasks::{ClassifyImage, Fit, Task};

use crate::best;
use crate::data::Statistics;
use crate::digest;
use crate::imported::{self, Imported};
use crate::layers::{Head, model_states};
use crate::networks::{self, NAMES, NetworkOptions, SMALL};
use crate::settings::Overrides;
use crate::trainer::UsageError;

/// Mean and standard deviation of ImageNet's pictures, scaled to 0..1, by which torchvision and timm normalise.
const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// Side for small pictures where the weights are a network's for larger ones.
const LARGE: usize = 128;

/// How many names a message lists.
const LISTED: usize = 5;

/// PyTorch's counters of batches, which nothing here needs.
const COUNTER: &str = "num_batches_tracked";

/// A file of weights.
#[derive(Clone, Debug)]
pub struct Init {
    file: String,
    digest: String,
    weights: Weights,
    origin: Origin,
}

/// What a file says about its weights.
#[derive(Clone, Debug)]
enum Origin {
    /// Nothing but their names.
    Names,
    /// Which of our networks they are for.
    Named { network: best::Network, task: ClassifyImage },
    /// The network itself.
    Imported(Box<Brought>),
}

/// A network, and what its file says about pictures and classes.
#[derive(Clone, Debug)]
struct Brought {
    network: Imported,
    labels: Option<Vec<String>>,
    mean: Option<Vec<f32>>,
    std: Option<Vec<f32>>,
    bgr: bool,
    fit: Option<Fit>,
}

/// A file of another format, as its reader gives it.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// SHA-256 of the file.
    pub digest: String,
    /// The network, as it is in the file: batch normalisation is not folded.
    pub graph: Graph,
    /// The content of the graph's states.
    pub weights: Weights,
    /// The class of each logit, where the file names them.
    pub labels: Option<Vec<String>>,
    /// Mean and standard deviation of each channel of pictures, or one for all, where the file has them.
    pub normalisation: Option<[Vec<f32>; 2]>,
}

/// Reads a file of another format: its path, and height and width of pictures where they were asked for.
pub type Import = fn(&Path, Option<usize>) -> anyhow::Result<Foreign>;

/// A file's tensors under the names that a network has for them.
struct Named<'a> {
    /// What their names begin with in the file only.
    prefix: &'a str,
    found: BTreeMap<&'a str, &'a Tensor>,
    /// The names of all others.
    unexpected: Vec<&'a str>,
}

/// What of a file became a network's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The file, as it was given.
    pub file: String,
    /// Number of tensors.
    pub tensors: usize,
    /// What their names begin with in the file only.
    pub prefix: String,
    /// What becomes of the head, as a sentence.
    pub head: String,
    /// States that the file lacks, which begin anew; those of a head that does are not among them.
    pub missing: Vec<String>,
    /// Tensors of the file that the network has no place for.
    pub unexpected: Vec<String>,
}

impl Init {
    /// Reads and checks a package or a safetensors file.
    ///
    /// # Errors
    /// [`UsageError`] where the file is not there or a pickle; else what is wrong with it.
    pub fn read(path: &Path) -> anyhow::Result<Init> {
        let file = existing(path)?;
        Init::open(path, file).with_context(|| format!("--init {}", path.display()))
    }

    /// Reads a file of another format by `import`, and checks that its network can be trained.
    ///
    /// # Errors
    /// [`UsageError`] where the file is not there; else what is wrong with it.
    pub fn import(path: &Path, side: Option<usize>, import: Import) -> anyhow::Result<Init> {
        let file = existing(path)?;
        let brought = import(path, side).and_then(|foreign| {
            let Foreign { digest, graph, mut weights, labels, normalisation } = foreign;
            let network = Imported::new(&graph, &mut weights).map_err(anyhow::Error::msg)?;
            let (mean, std) = normalisation.map(|[mean, std]| (mean, std)).unzip();
            Ok((digest, weights, Brought { network, labels, mean, std, bgr: false, fit: None }))
        });
        let (digest, weights, brought) = brought.with_context(|| format!("--init {file}"))?;
        Ok(Init { file, digest, weights, origin: Origin::Imported(Box::new(brought)) })
    }

    fn open(path: &Path, file: String) -> anyhow::Result<Init> {
        let bytes = package::open(path)?;
        if is_pickle(&bytes) {
            return Err(UsageError(format!("--init {file}: {PICKLE}")).into());
        }
        let digest = digest::of(&bytes[..]);
        let (weights, origin) = match Package::from_bytes(&bytes) {
            Ok(mut package) => {
                let origin = Origin::of(&mut package)?;
                (package.weights, origin)
            }
            Err(PackageError::NoManifest) => (package::floats(&bytes)?, Origin::Names),
            Err(error) => return Err(error.into()),
        };
        Ok(Init { file, digest, weights, origin })
    }

    /// The file, as it was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The network that the file brings along.
    pub fn imported(&self) -> Option<&Imported> {
        match &self.origin {
            Origin::Imported(brought) => Some(&brought.network),
            Origin::Names | Origin::Named { .. } => None,
        }
    }

    /// SHA-256 of the file.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// `given`, with what the weights were made for in place of what it leaves open; and sentences about that.
    ///
    /// # Errors
    /// [`UsageError`] where `given` contradicts the file, or leaves open what the file does not say.
    pub fn complete(
        &self,
        given: &Overrides,
        statistics: &Statistics,
    ) -> anyhow::Result<(Overrides, Vec<String>)> {
        let mut settings = Overrides { init: Some(self.digest.clone()), ..given.clone() };
        let mut notes = Vec::new();
        match &self.origin {
            Origin::Names => self.as_in_pytorch(statistics, &mut settings, &mut notes)?,
            Origin::Named { network, task } => self.as_in_package(network, task, &mut settings)?,
            Origin::Imported(brought) => self.as_imported(brought, &mut settings, &mut notes)?,
        }
        match (statistics.channels(), settings.channels) {
            (1, Some(3)) => {
                notes.push("grey pictures become three equal channels, as the weights expect".into())
            }
            (3, Some(1)) => notes.push("coloured pictures become grey, as the weights expect".into()),
            _ => {}
        }
        Ok((settings, notes))
    }

    fn as_in_package(
        &self,
        network: &best::Network,
        task: &ClassifyImage,
        settings: &mut Overrides,
    ) -> Result<(), UsageError> {
        let model = settings.model.take().filter(|name| name != "auto");
        settings.model = Some(self.agreed("model", model, network.name.clone())?);
        settings.width = Some(self.agreed("width", settings.width, network.width)?);
        settings.imgsz.get_or_insert(network.size[0]);
        settings.channels = Some(task.input.channels);
        if settings.mean.is_none() && settings.std.is_none() {
            (settings.mean, settings.std) = (Some(task.input.mean.clone()), Some(task.input.std.clone()));
        }
        Ok(())
    }

    fn as_imported(
        &self,
        brought: &Brought,
        settings: &mut Overrides,
        notes: &mut Vec<String>,
    ) -> Result<(), UsageError> {
        let network = &brought.network;
        let model = settings.model.take().filter(|name| name != "auto");
        settings.model = Some(self.agreed("model", model, imported::NAME.into())?);
        settings.width = Some(self.agreed("width", settings.width, 1.0)?);
        settings.imgsz = Some(self.agreed("imgsz", settings.imgsz, network.side())?);
        settings.channels = Some(network.channels());
        (settings.bgr, settings.fit) = (brought.bgr, brought.fit);
        if settings.mean.is_none() && settings.std.is_none() {
            (settings.mean, settings.std) = (brought.mean.clone(), brought.std.clone());
            if settings.mean.is_none() {
                let file = &self.file;
                notes.push(format!(
                    "{file} does not say how pictures are normalised: by their own mean and deviation; --mean and --std \
                     give others"
                ));
            }
        }
        Ok(())
    }

    fn agreed<T: PartialEq + std::fmt::Display>(
        &self,
        flag: &str,
        given: Option<T>,
        own: T,
    ) -> Result<T, UsageError> {
        match given.filter(|given| *given != own) {
            Some(given) => {
                Err(UsageError(format!("--{flag} {given}: the weights in {} are for {own}", self.file)))
            }
            None => Ok(own),
        }
    }

    fn as_in_pytorch(
        &self,
        statistics: &Statistics,
        settings: &mut Overrides,
        notes: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let model = match settings.model.take().filter(|name| name != "auto") {
            Some(name) => name,
            None => self.recognise()?,
        };
        let width = *settings.width.get_or_insert(1.0);
        settings.model = Some(model.clone());
        let build = |size| {
            networks::build(&model, &NetworkOptions { classes: 2, channels: 3, size: [size; 2], width })
        };
        // A network that cannot be built is refused with the other settings.
        let Ok(large) = build(LARGE) else { return Ok(()) };
        settings.channels = self.channels(&large)?;
        let side = statistics.image_size();
        if settings.imgsz.is_none()
            && side <= SMALL
            && build(side).is_ok_and(|small| self.misfits(&small) > self.misfits(&large))
        {
            settings.imgsz = Some(LARGE);
            notes.push(format!(
                "pictures are enlarged to {LARGE}x{LARGE}: the weights are those for larger pictures"
            ));
        }
        if settings.channels == Some(3)
            && settings.mean.is_none()
            && settings.std.is_none()
            && is_published(&model)
        {
            [settings.mean, settings.std] = IMAGENET.map(|values| Some(values.to_vec()));
            notes.push(format!(
                "pictures are normalised by ImageNet's mean and deviation, as published weights of {model} expect; \
                 --mean and --std give others"
            ));
        }
        Ok(())
    }

    /// The network whose states these are, whatever the head's shape.
    fn recognise(&self) -> Result<String, UsageError> {
        let names = |name: &&&str| {
            let options = NetworkOptions { classes: 2, channels: 3, size: [LARGE; 2], width: 1.0 };
            networks::build(name, &options).is_ok_and(|network| {
                let named = self.named(&network);
                let head = Head::of(&network).map(|head| head.states).unwrap_or_default();
                named.unexpected.is_empty()
                    && model_states(&network)
                        .all(|name| named.found.contains_key(name) || head.contains(name))
            })
        };
        match NAMES.iter().filter(names).collect::<Vec<_>>()[..] {
            [name] => Ok(name.to_string()),
            _ => Err(UsageError(format!(
                "--init {}: its tensors are not just those of one network; say by --model which network they are for",
                self.file
            ))),
        }
    }

    /// The channels of pictures that the first filters take.
    fn channels(&self, network: &Graph) -> anyhow::Result<Option<usize>> {
        let found = self.named(network).found;
        let mut filters = model_states(network).filter_map(|name| Some((name, found.get(name)?)));
        let Some((name, first)) = filters.find(|(_, tensor)| tensor.shape.len() == 4) else {
            return Ok(None);
        };
        match first.shape[1] {
            channels @ (1 | 3) => Ok(Some(channels)),
            other => {
                bail!("--init {}: tensor `{name}` takes pictures of {other} channels, not 1 or 3", self.file)
            }
        }
    }

    /// How many tensors, the head's apart, have another shape in `network`.
    fn misfits(&self, network: &Graph) -> usize {
        let head = Head::of(network).map(|head| head.states).unwrap_or_default();
        self.named(network)
            .found
            .iter()
            .filter(|(name, tensor)| !head.contains(**name) && !fits(network, name, tensor))
            .count()
    }

    fn named<'a>(&'a self, network: &'a Graph) -> Named<'a> {
        let own: BTreeSet<&str> = model_states(network).collect();
        let prefix = prefix(self.weights.keys(), &own);
        let mut named = Named { prefix, found: BTreeMap::new(), unexpected: Vec::new() };
        for (name, tensor) in &self.weights {
            match name.strip_prefix(prefix).filter(|name| own.contains(name)) {
                Some(name) => drop(named.found.insert(name, tensor)),
                None if name.ends_with(COUNTER) => {}
                None => named.unexpected.push(name.as_str()),
            }
        }
        named
    }

    /// Writes the file's tensors over those of `weights` that `network` has under the same names. A head for other
    /// classes than `labels` is left as it is.
    ///
    /// # Errors
    /// No tensor is of use, or one has another shape than in `network`.
    pub fn fill(&self, network: &Graph, labels: &[String], weights: &mut Weights) -> anyhow::Result<Taken> {
        let Named { prefix, mut found, unexpected } = self.named(network);
        let head = Head::of(network).context("the network has no head")?;
        let (new, head) = match self.renewed(&head, network, labels, &found) {
            Some(why) => (head.states, format!("head {}: {why}: begins anew", head.layer)),
            None => (BTreeSet::new(), format!("head {} goes on from there", head.layer)),
        };
        found.retain(|name, _| !new.contains(*name));
        self.check(network, &found)?;
        let missing = model_states(network).filter(|name| !found.contains_key(name) && !new.contains(*name));
        let taken = Taken {
            file: self.file.clone(),
            tensors: found.len(),
            prefix: shown(prefix),
            head,
            missing: missing.map(String::from).collect(),
            unexpected: unexpected.into_iter().map(shown).collect(),
        };
        weights.extend(found.into_iter().map(|(name, tensor)| (name.to_string(), tensor.clone())));
        Ok(taken)
    }

    /// Why the head cannot be taken, if so.
    fn renewed(
        &self,
        head: &Head,
        network: &Graph,
        labels: &[String],
        found: &BTreeMap<&str, &Tensor>,
    ) -> Option<String> {
        let states: Vec<_> =
            head.states.iter().filter_map(|name| Some((name, found.get(name.as_str())?))).collect();
        if states.is_empty() {
            return Some(format!("{} has none", self.file));
        }
        let (there, here) = (self.classes(network, &states), labels.len());
        if there != here {
            return Some(format!("{there} classes in {}, {here} here", self.file));
        }
        let before = match &self.origin {
            Origin::Names => None,
            Origin::Named { task, .. } => Some(&task.labels),
            Origin::Imported(brought) => brought.labels.as_ref(),
        };
        let before = before.filter(|before| *before != labels)?;
        Some(format!("{} in {}, {} here", names(before), self.file, names(labels)))
    }

    /// How many classes the head in the file is for.
    fn classes(&self, network: &Graph, head: &[(&String, &&Tensor)]) -> usize {
        if let Some(network) = self.imported() {
            return network.classes();
        }
        let own = |name: &str| network.find(name).map(|id| network.ty(id).shape.0[0].factor);
        let there = |tensor: &Tensor| tensor.shape.first().copied();
        let other = head.iter().find(|(name, tensor)| own(name) != there(tensor));
        other.or(head.first()).and_then(|(_, tensor)| there(tensor)).unwrap_or(0)
    }

    fn check(&self, network: &Graph, found: &BTreeMap<&str, &Tensor>) -> anyhow::Result<()> {
        let file = &self.file;
        if found.is_empty() {
            let (own, have) =
                (names(model_states(network)), names(self.weights.keys().map(|name| shown(name))));
            bail!("--init {file}: none of its tensors has a place here; it holds {have}, the network {own}");
        }
        let wrong: Vec<_> = found.iter().filter(|(name, tensor)| !fits(network, name, tensor)).collect();
        let Some((name, tensor)) = wrong.first() else { return Ok(()) };
        let own = network.ty(network.find(name).expect("found by its name"));
        let others = if wrong.len() > 1 {
            format!(", and {} more do not fit", wrong.len() - 1)
        } else {
            String::new()
        };
        bail!(
            "--init {file}: tensor `{name}` is {}, here it is {own}{others}; another --model, --width or --imgsz would \
             fit (up to {SMALL} pixels, networks have a smaller stem)",
            tensor.ty()
        )
    }
}

impl Origin {
    fn of(package: &mut Package) -> anyhow::Result<Origin> {
        let task = package.manifest.task.clone().map(serde_json::from_value::<Task>).transpose();
        let task = match task.context("the package's task")? {
            None => None,
            Some(Task::ClassifyImage(task)) => Some(task),
            Some(task) => bail!(
                "the package's task is {}; training learns to classify images, and begins from such",
                task.kind()
            ),
        };
        task.iter().try_for_each(ClassifyImage::validate)?;
        let Some(network) = package.manifest.network.clone() else {
            return Origin::imported(package, task);
        };
        let network: best::Network = serde_json::from_value(network).context("the package's network")?;
        let task = task.context("the package has no task")?;
        if network.size[0] != network.size[1] || network.channels != task.input.channels {
            let ([height, width], channels) = (network.size, network.channels);
            bail!(
                "the package's network takes {channels} channels of {height}x{width} pixels, its task gives {} channels; \
                 they should agree and be square",
                task.input.channels
            );
        }
        Ok(Origin::Named { network, task })
    }

    /// The package says nothing of a network of ours, so it is the graph that counts.
    fn imported(package: &mut Package, task: Option<ClassifyImage>) -> anyhow::Result<Origin> {
        let network = Imported::new(&package.graph, &mut package.weights).map_err(anyhow::Error::msg)?;
        let none = Brought { network, labels: None, mean: None, std: None, bgr: false, fit: None };
        let brought = match task {
            None => none,
            Some(task) => Brought {
                labels: Some(task.labels),
                mean: Some(task.input.mean),
                std: Some(task.input.std),
                bgr: task.input.bgr,
                fit: Some(task.input.fit),
                ..none
            },
        };
        Ok(Origin::Imported(Box::new(brought)))
    }
}

fn existing(path: &Path) -> Result<String, UsageError> {
    let file = path.display().to_string();
    if path.exists() { Ok(file) } else { Err(UsageError(format!("--init {file}: there is no such file"))) }
}

impl Taken {
    /// What there is to tell, a sentence each.
    pub fn lines(&self) -> Vec<String> {
        let Taken { file, tensors, prefix, head, missing, unexpected } = self;
        let mut lines = vec![format!("{tensors} tensors from {file}")];
        if !prefix.is_empty() {
            lines[0] += &format!(", where their names begin with `{prefix}`");
        }
        lines.push(head.clone());
        if !missing.is_empty() {
            lines.push(format!("not in {file}, and begin anew: {}", names(missing)));
        }
        if !unexpected.is_empty() {
            lines.push(format!("of no use here: {}", names(unexpected)));
        }
        lines
    }
}

/// What to do with a pickle.
const PICKLE: &str = "this is a pickle of PyTorch, which could run any code when it is read, so it is refused; turn it \
    into safetensors with Python: from safetensors.torch import save_file; save_file(model.state_dict(), \
    \"weights.safetensors\")";

/// A ZIP archive or a bare pickle, as `torch.save` writes them. A safetensors file begins with the length of its
/// header, of which the upper bytes are zero.
fn is_pickle(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || (bytes.first() == Some(&0x80) && bytes.get(4..8) != Some(&[0; 4]))
}

/// What most names of a file begin with before a name of `own`: `module.`, `model.backbone.`, or nothing. Of equals
/// the shortest.
fn prefix<'a>(file: impl Iterator<Item = &'a String>, own: &BTreeSet<&str>) -> &'a str {
    let mut votes = BTreeMap::<&str, usize>::new();
    for name in file {
        let starts = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1));
        for at in starts.filter(|&at| own.contains(&name[at..])) {
            *votes.entry(&name[..at]).or_default() += 1;
        }
    }
    votes
        .into_iter()
        .max_by_key(|(prefix, votes)| (*votes, Reverse(prefix.len())))
        .map_or("", |(prefix, _)| prefix)
}

/// Whether there are weights of the network `name`, trained on ImageNet, for everyone.
fn is_published(name: &str) -> bool {
    !["lenet", "plain6"].contains(&name)
}

fn fits(network: &Graph, name: &str, tensor: &Tensor) -> bool {
    network.find(name).is_some_and(|id| *network.ty(id) == tensor.ty())
}

/// The first few, and how many there are.
fn names<S: AsRef<str>>(all: impl IntoIterator<Item = S>) -> String {
    let all: Vec<S> = all.into_iter().collect();
    match all.len() {
        0 => "nothing".into(),
        n if n <= LISTED => listed(&all),
        n => format!("{}, ... ({n} in all)", listed(&all[..LISTED])),
    }
}

fn listed<S: AsRef<str>>(all: &[S]) -> String {
    all.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
}
