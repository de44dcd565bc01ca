//! Topics between devices and the hub. The device is part of them, so that a broker can hold each device to its own.

use crate::Device;

const ROOT: &str = "espalier/v1";

/// Where a device publishes its batches.
pub fn batches(device: &Device) -> String {
    format!("{ROOT}/{device}/batch")
}

/// Where the hub answers a device.
pub fn acks(device: &Device) -> String {
    format!("{ROOT}/{device}/ack")
}

/// What the hub subscribes to: the batches of every device.
pub fn all_batches() -> String {
    format!("{ROOT}/+/batch")
}

/// The device whose batches a topic carries.
pub fn device_of(topic: &str) -> Option<Device> {
    topic.strip_prefix(ROOT)?.strip_prefix('/')?.strip_suffix("/batch")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_names_its_device() {
        let device: Device = "gate-7".parse().unwrap();
        assert_eq!(device_of(&batches(&device)), Some(device.clone()));
        assert_eq!(device_of(&acks(&device)), None);
        assert_eq!(device_of("espalier/v1/a/b/batch"), None);
    }
}
