//! Who speaks: a device, and one of its queues.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::WireError;

/// Characters of a device's name, at most.
const NAME_LENGTH: usize = 64;

/// The name of a device: 1 to 64 of `a-z A-Z 0-9 . _ -`, so that it can be a segment of a topic and of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Device(String);

impl Device {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Device {
    type Err = WireError;

    fn from_str(name: &str) -> Result<Device, WireError> {
        let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let dots = name.chars().all(|c| c == '.');
        if name.len() > NAME_LENGTH || dots || !name.chars().all(known) {
            let shown: String = name.chars().take(NAME_LENGTH).collect();
            return Err(WireError::Wrong(format!(
                "device {shown:?}: a name has 1 to {NAME_LENGTH} letters, digits, '.', '_' and '-', not only dots"
            )));
        }
        Ok(Device(name.to_owned()))
    }
}

impl TryFrom<String> for Device {
    type Error = WireError;

    fn try_from(name: String) -> Result<Device, WireError> {
        name.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> String {
        device.0
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The life of one queue: a random number that is drawn when its file is made. Sequence numbers count within it, so a queue
/// that was lost and made anew never gives one of them twice. As text sixteen hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epoch(pub u64);

impl FromStr for Epoch {
    type Err = WireError;

    fn from_str(text: &str) -> Result<Epoch, WireError> {
        match u64::from_str_radix(text, 16) {
            Ok(number) if Epoch(number).to_string() == text => Ok(Epoch(number)),
            _ => Err(WireError::Wrong("an epoch is sixteen hexadecimal digits, in lower case".into())),
        }
    }
}

impl TryFrom<String> for Epoch {
    type Error = WireError;

    fn try_from(text: String) -> Result<Epoch, WireError> {
        text.parse()
    }
}

impl From<Epoch> for String {
    fn from(epoch: Epoch) -> String {
        epoch.to_string()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_segments_of_topics() {
        let check = |name: &str, fine: bool| assert_eq!(name.parse::<Device>().is_ok(), fine, "{name:?}");
        check("gate-7", true);
        check("Hall_2.left", true);
        check(&"x".repeat(64), true);
        check(&"x".repeat(65), false);
        ["", ".", "..", "a/b", "a+b", "#", "a b", "ä", "a\0"].iter().for_each(|name| check(name, false));
    }

    #[test]
    fn an_epoch_has_one_text() {
        assert_eq!("00000000000000ff".parse::<Epoch>().unwrap(), Epoch(255));
        for text in ["ff", "00000000000000FF", "+0000000000000ff", "", "00000000000000fff"] {
            assert!(text.parse::<Epoch>().is_err(), "{text:?}");
        }
    }
}
