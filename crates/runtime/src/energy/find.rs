//! Which meter a machine has. What measures the processors alone comes before what measures the whole machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::meter::{Counter, Kind, Meter, MeterError, Power, number, text};

/// Sensors of hwmon that measure a board, a processor or all of a machine, by the beginnings of their names. Others measure
/// a part (a graphics card), or something else (the light of a network card).
const CHIPS: [&str; 7] =
    ["ina", "amd_energy", "zenergy", "fam15h_power", "power_meter", "scmi_sensors", "scpi_sensors"];
/// What the label of a channel says that measures the whole, where others measure parts of it.
const WHOLE: [&str; 4] = ["socket", "vdd_in", "5v_in", "total"];
/// How long a sensor of power averages.
const SENSOR: Duration = Duration::from_millis(250);
/// A battery's gauge looks every few seconds.
const BATTERY: Duration = Duration::from_secs(5);

type Found = Result<Option<Meter>, MeterError>;

impl Meter {
    /// The best meter in the sysfs at `root`, which is /sys: RAPL's packages (Intel and AMD), a sensor of hwmon, a battery
    /// that is discharging.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn find(root: &Path) -> Result<Meter, String> {
        let class = root.join("class");
        let kinds: [fn(&Path) -> Found; 3] = [rapl, hwmon, battery];
        let mut reasons = Vec::new();
        for find in kinds {
            // A meter counts as found once it can be read.
            match find(&class).and_then(|meter| meter.map(|m| m.read().map(|_| m)).transpose()) {
                Ok(Some(meter)) => return Ok(meter),
                Ok(None) => {}
                Err(MeterError(reason)) => reasons.push(reason),
            }
        }
        match reasons.is_empty() {
            true => Err("it has no RAPL, no sensor of power that is known, and no battery".into()),
            false => Err(reasons.join("; ")),
        }
    }
}

/// Package domains; what lies within one, or in `psys` and `intel-rapl-mmio`, is counted there already.
fn rapl(class: &Path) -> Found {
    let (mut counters, mut names) = (Vec::new(), Vec::new());
    for domain in entries(&class.join("powercap")) {
        let is_top = file_name(&domain).strip_prefix("intel-rapl:").is_some_and(|n| !n.contains(':'));
        if !is_top {
            continue;
        }
        let name = text(&domain.join("name"))?;
        if name.starts_with("package") {
            let range = Some(number(&domain.join("max_energy_range_uj"))?);
            counters.push(Counter { path: domain.join("energy_uj"), range });
            names.push(name);
        }
    }
    let name = format!("RAPL {}", names.join(", "));
    Ok((!counters.is_empty()).then_some(Meter { name, kind: Kind::Counters(counters) }))
}

/// The first chip that counts energy, else the first that measures power.
fn hwmon(class: &Path) -> Found {
    let all = entries(&class.join("hwmon"));
    let named = |chip: PathBuf| Some((text(&chip.join("name")).ok()?, chip));
    let known = |(name, _): &(String, PathBuf)| CHIPS.iter().any(|known| name.starts_with(known));
    let chips: Vec<(String, PathBuf)> = all.into_iter().filter_map(named).filter(known).collect();
    for kind in [counted, sensed] {
        for (name, chip) in &chips {
            if let Some((label, kind)) = kind(chip)? {
                let meter = format!("hwmon {name} {label}");
                return Ok(Some(Meter { name: meter.trim_end().into(), kind }));
            }
        }
    }
    Ok(None)
}

type Channels = Result<Option<(String, Kind)>, MeterError>;

fn counted(chip: &Path) -> Channels {
    let Some((label, stems)) = whole(chip, "energy", "_input")? else { return Ok(None) };
    let path = |stem: String| chip.join(format!("{stem}_input"));
    let counters = stems.into_iter().map(|stem| Counter { path: path(stem), range: None });
    Ok(Some((label, Kind::Counters(counters.collect()))))
}

/// Channels of power; where a chip has none, those of voltage and current, whose product it is.
fn sensed(chip: &Path) -> Channels {
    let powers = |label, powers: Vec<Power>| Ok(Some((label, Kind::Powers { powers, settles: SENSOR })));
    let power = |factors| Power { factors, watts: 1e-6, status: None };
    for suffix in ["_input", "_average"] {
        if let Some((label, stems)) = whole(chip, "power", suffix)? {
            let path = |stem: &String| chip.join(format!("{stem}{suffix}"));
            return powers(label, stems.iter().map(|stem| power(vec![path(stem)])).collect());
        }
    }
    // The label stands at the voltage. Millivolts times milliamperes are microwatts.
    let Some((label, stems)) = whole(chip, "in", "_input")? else { return Ok(None) };
    let factors = |stem: &String| {
        let current = format!("curr{}_input", stem.trim_start_matches("in"));
        vec![chip.join(format!("{stem}_input")), chip.join(current)]
    };
    powers(label, stems.iter().map(|stem| power(factors(stem))).collect())
}

/// The channels `{quantity}N{suffix}` of a chip that together measure the whole, without the suffix: the only one, or those
/// whose label says so.
fn whole(chip: &Path, quantity: &str, suffix: &str) -> Result<Option<(String, Vec<String>)>, MeterError> {
    let stem = |path: &PathBuf| Some(file_name(path).strip_suffix(suffix)?.to_string());
    let is_channel = |stem: &String| {
        let number = stem.strip_prefix(quantity).unwrap_or("");
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    };
    let stems: Vec<String> = entries(chip).iter().filter_map(stem).filter(is_channel).collect();
    let label = |stem: &str| text(&chip.join(format!("{stem}_label"))).unwrap_or_default();
    if stems.len() < 2 {
        return Ok(stems.first().map(|stem| (label(stem), stems.clone())));
    }
    let says = |stem: &String| WHOLE.iter().any(|word| label(stem).to_lowercase().contains(word));
    let chosen: Vec<String> = stems.iter().filter(|stem| says(stem)).cloned().collect();
    if chosen.is_empty() {
        let (count, chip) = (stems.len(), chip.display());
        return Err(MeterError(format!(
            "{chip} has {count} channels, and no label says which measures the whole"
        )));
    }
    let labels: Vec<String> = chosen.iter().map(|stem| label(stem)).collect();
    Ok(Some((labels.join(", "), chosen)))
}

/// Batteries of the machine itself that are discharging.
fn battery(class: &Path) -> Found {
    let (mut powers, mut names, mut idle) = (Vec::new(), Vec::new(), None);
    for supply in entries(&class.join("power_supply")) {
        let says = |file: &str| text(&supply.join(file)).unwrap_or_default();
        // Scope `Device`: a mouse, or headphones.
        if says("type") != "Battery" || says("scope") == "Device" {
            continue;
        }
        let status = supply.join("status");
        match text(&status)?.as_str() {
            "Discharging" => {
                let direct = supply.join("power_now");
                let (factors, watts) = match direct.exists() {
                    true => (vec![direct], 1e-6),
                    false => (vec![supply.join("current_now"), supply.join("voltage_now")], 1e-12),
                };
                powers.push(Power { factors, watts, status: Some(status) });
                names.push(file_name(&supply));
            }
            other => {
                idle = Some(format!(
                    "{} says {other:?}: a battery measures only what it gives",
                    status.display()
                ))
            }
        }
    }
    match (powers.is_empty(), idle) {
        (true, Some(reason)) => Err(MeterError(reason)),
        (true, None) => Ok(None),
        _ => {
            let kind = Kind::Powers { powers, settles: BATTERY };
            Ok(Some(Meter { name: format!("battery {}", names.join(", ")), kind }))
        }
    }
}

/// What is in a folder, by name; nothing where it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let list = std::fs::read_dir(folder).into_iter().flatten();
    let mut all: Vec<PathBuf> = list.filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.sort();
    all
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
