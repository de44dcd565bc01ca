//! One connection without its network: bytes and time go in, bytes and events come out.

use std::collections::VecDeque;
use std::time::Duration;

use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{self, ConnectionOptions, TimerKind};
use mqtt_protocol_core::mqtt::packet::{GenericPacketTrait as _, Packet, Qos, SubEntry, SubOpts, v5_0};
use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode, MqttError as Fault};
use mqtt_protocol_core::mqtt::{Connection, Version, role};

use super::{MqttError, Options, Publication};

/// What a broker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It takes the connection.
    Connected,
    /// It takes the subscription.
    Subscribed,
    /// It has what was published under this number.
    Published(u16),
    /// It does not take what was published under this number, and why.
    Rejected(u16, String),
    /// Somebody published something.
    Message {
        /// Where.
        topic: String,
        /// What.
        payload: Vec<u8>,
    },
}

/// One connection to a broker.
pub struct Session {
    connection: Connection<role::Client>,
    max_packet_bytes: u32,
    output: Vec<u8>,
    events: VecDeque<Event>,
    timers: Vec<(TimerKind, Duration)>,
    fault: Option<MqttError>,
}

impl Session {
    /// Begins: the first output asks the broker for the connection. Every connection begins without a memory of earlier ones.
    ///
    /// # Errors
    /// A name, will or login that is too long for MQTT.
    pub fn new(options: &Options, now: Duration) -> Result<Session, MqttError> {
        let limits = ConnectionOptions::new().maximum_packet_size_recv(options.max_packet_bytes);
        let limits = limits.receive_maximum(64);
        let mut connection = Connection::with_options(Version::V5_0, limits);
        connection.set_auto_pub_response(true);
        connection.set_pingresp_recv_timeout(options.patience.as_millis() as u64);
        let mut session = Session {
            connection,
            max_packet_bytes: options.max_packet_bytes,
            output: Vec::new(),
            events: VecDeque::new(),
            timers: Vec::new(),
            fault: None,
        };
        let connect = connect(options).map_err(|e| MqttError::Refused(format!("the options: {e}")))?;
        let events = session.connection.checked_send(connect);
        session.handle(events, now);
        Ok(session)
    }

    /// Takes bytes of the broker.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) {
        let mut bytes = Cursor::new(bytes);
        while (bytes.position() as usize) < bytes.get_ref().len() && self.fault.is_none() {
            let events = self.connection.recv(&mut bytes);
            self.handle(events, now);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        while let Some(at) = self.timers.iter().position(|(_, due)| *due <= now) {
            let (kind, _) = self.timers.swap_remove(at);
            let events = self.connection.notify_timer_fired(kind);
            self.handle(events, now);
            if matches!(kind, TimerKind::PingrespRecv) {
                self.fail(MqttError::Silence);
            }
        }
    }

    /// When [`Session::tick`] has something to do.
    pub fn due(&self) -> Option<Duration> {
        self.timers.iter().map(|(_, due)| *due).min()
    }

    /// Asks for what is published to topics that a filter describes.
    ///
    /// # Errors
    /// A filter that is none.
    pub fn subscribe(&mut self, filter: &str, now: Duration) -> Result<(), MqttError> {
        let protocol = |e: Fault| MqttError::Refused(format!("the filter {filter:?}: {e}"));
        let entry = SubEntry::new(filter, SubOpts::new().set_qos(Qos::AtLeastOnce)).map_err(protocol)?;
        let id = self.connection.acquire_packet_id().map_err(protocol)?;
        let subscribe = v5_0::Subscribe::builder().entries(vec![entry]).packet_id(id).build();
        let events = self.connection.checked_send(subscribe.map_err(protocol)?);
        self.handle(events, now);
        Ok(())
    }

    /// Publishes something; gives its number, by which an event will name it, or 0 where none will.
    ///
    /// # Errors
    /// A topic that is none, or more under way than the broker admits.
    pub fn publish(&mut self, what: &Publication, now: Duration) -> Result<u16, MqttError> {
        let protocol = |e: Fault| MqttError::Refused(format!("a message to {:?}: {e}", what.topic));
        let builder = v5_0::Publish::builder().topic_name(what.topic.as_str()).map_err(protocol)?;
        let builder = builder.payload(what.payload.as_slice()).retain(what.retained);
        let (id, builder) = if what.acknowledged {
            let id = self.connection.acquire_packet_id().map_err(protocol)?;
            (id, builder.qos(Qos::AtLeastOnce).packet_id(id))
        } else {
            (0, builder.qos(Qos::AtMostOnce))
        };
        let events = self.connection.checked_send(builder.build().map_err(protocol)?);
        self.handle(events, now);
        Ok(id)
    }

    /// Whether as much is under way as the broker admits (Receive Maximum).
    pub fn is_full(&self) -> bool {
        self.connection.get_receive_maximum_vacancy_for_send() == Some(0)
    }

    /// Says that this is the end, so that the broker does not publish the will.
    pub fn disconnect(&mut self, now: Duration) {
        if let Ok(disconnect) = v5_0::Disconnect::builder().build() {
            let events = self.connection.checked_send(disconnect);
            self.handle(events, now);
        }
    }

    /// What is to be sent.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// What the broker said.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Why there will be no more.
    pub fn fault(&self) -> Option<&MqttError> {
        self.fault.as_ref()
    }

    fn handle(&mut self, events: Vec<connection::Event>, now: Duration) {
        for event in events {
            match event {
                connection::Event::RequestSendPacket { packet, .. } => {
                    self.output.extend_from_slice(&packet.to_continuous_buffer());
                }
                connection::Event::NotifyPacketReceived(packet) => self.packet(packet),
                connection::Event::RequestTimerReset { kind, duration_ms } => {
                    self.timers.retain(|(other, _)| *other != kind);
                    self.timers.push((kind, now + Duration::from_millis(duration_ms)));
                }
                connection::Event::RequestTimerCancel(kind) => {
                    self.timers.retain(|(other, _)| *other != kind)
                }
                connection::Event::NotifyError(Fault::PacketTooLarge) => {
                    self.fail(MqttError::TooLarge(self.max_packet_bytes));
                }
                connection::Event::NotifyError(error) => self.fail(MqttError::Protocol(error.to_string())),
                connection::Event::RequestClose => self.closing(),
                connection::Event::NotifyPacketIdReleased(_) => {}
            }
        }
    }

    fn packet(&mut self, packet: Packet) {
        match packet {
            Packet::V5_0Connack(answer) if answer.reason_code() == ConnectReasonCode::Success => {
                self.events.push_back(Event::Connected);
            }
            Packet::V5_0Connack(answer) => {
                self.fail(MqttError::Refused(format!("the connection: {}", answer.reason_code())));
            }
            Packet::V5_0Suback(answer) => match answer.reason_codes().iter().find(|code| code.is_failure()) {
                Some(code) => self.fail(MqttError::Refused(format!("the subscription: {code}"))),
                None => self.events.push_back(Event::Subscribed),
            },
            Packet::V5_0Puback(answer) => {
                let id = answer.packet_id();
                self.events.push_back(match answer.reason_code() {
                    Some(code) if code.is_failure() => Event::Rejected(id, code.to_string()),
                    _ => Event::Published(id),
                });
            }
            Packet::V5_0Publish(message) => self.events.push_back(Event::Message {
                topic: message.topic_name().to_owned(),
                payload: message.payload().as_slice().to_vec(),
            }),
            Packet::V5_0Disconnect(bye) => {
                let reason = bye.reason_code().map_or("no reason".to_owned(), |code| code.to_string());
                self.fail(MqttError::Refused(format!("more, and disconnects: {reason}")));
            }
            _ => {}
        }
    }

    /// The first fault is the one that counts.
    fn fail(&mut self, fault: MqttError) {
        if matches!(self.fault, None | Some(MqttError::Closed)) {
            self.fault = Some(fault);
        }
    }

    fn closing(&mut self) {
        self.fault.get_or_insert(MqttError::Closed);
    }
}

fn connect(options: &Options) -> Result<v5_0::Connect, Fault> {
    let seconds = options.keep_alive.as_secs().clamp(1, u64::from(u16::MAX)) as u16;
    let mut connect =
        v5_0::Connect::builder().client_id(options.client_id.as_str())?.clean_start(true).keep_alive(seconds);
    if let Some(will) = &options.will {
        let quality = if will.acknowledged { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        connect = connect.will_message(will.topic.as_str(), will.payload.clone(), quality, will.retained)?;
    }
    if let Some(login) = &options.login {
        connect = connect.user_name(login.user.as_str())?.password(login.password.as_str())?;
    }
    connect.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::ZERO;
    /// A broker takes the connection: no session, success, no properties.
    const CONNACK: [u8; 5] = [0x20, 3, 0, 0, 0];

    fn options() -> Options {
        Options {
            host: "localhost".into(),
            port: 1883,
            tls: None,
            client_id: "test".into(),
            login: None,
            will: None,
            keep_alive: Duration::from_secs(30),
            max_packet_bytes: 1000,
            patience: Duration::from_secs(5),
        }
    }

    fn connected() -> Session {
        let mut session = Session::new(&options(), START).unwrap();
        assert_eq!(session.output()[0], 0x10, "CONNECT");
        session.receive(&CONNACK, START);
        assert_eq!(session.event(), Some(Event::Connected));
        session
    }

    #[test]
    fn the_broker_is_told_the_largest_packet() {
        let mut session = Session::new(&options(), START).unwrap();
        let property = [39, 0, 0, 3, 232];
        assert!(session.output().windows(5).any(|window| window == property), "Maximum Packet Size is 1000");
    }

    /// Section 2.1.4: four bytes can say 268,435,455.
    #[test]
    fn a_packet_of_256_mb_is_refused_by_its_header() {
        let giant = [0x30, 0xff, 0xff, 0xff, 0x7f];
        for mut session in [Session::new(&options(), START).unwrap(), connected()] {
            session.receive(&giant, START);
            assert_eq!(session.fault(), Some(&MqttError::TooLarge(1000)));
            assert_eq!(session.event(), None);
        }
    }

    #[test]
    fn messages_come_in_pieces_and_are_acknowledged() {
        let mut session = connected();
        let message = [0x32, 8, 0, 1, b'a', 0, 7, 0, b'x', b'y'];
        message.iter().for_each(|&byte| session.receive(&[byte], START));
        assert_eq!(session.event(), Some(Event::Message { topic: "a".into(), payload: b"xy".to_vec() }));
        assert_eq!(session.output()[..4], [0x40, 2, 0, 7], "PUBACK");
        assert_eq!(session.fault(), None);
    }

    #[test]
    fn what_is_published_is_named_when_it_arrives() {
        let mut session = connected();
        let what =
            Publication { topic: "a/b".into(), payload: b"1".to_vec(), acknowledged: true, retained: false };
        let id = session.publish(&what, START).unwrap();
        session.receive(&[0x40, 2, 0, id as u8], START);
        assert_eq!(session.event(), Some(Event::Published(id)));
        let id = session.publish(&what, START).unwrap();
        session.receive(&[0x40, 3, 0, id as u8, 0x87], START);
        assert_eq!(session.event(), Some(Event::Rejected(id, "NotAuthorized".into())));
    }

    #[test]
    fn silence_ends_it() {
        let mut session = connected();
        session.output();
        let due = session.due().unwrap();
        assert!(due <= Duration::from_secs(30));
        session.tick(due);
        assert_eq!(session.output(), [0xc0, 0], "PINGREQ");
        session.tick(due + Duration::from_secs(6));
        assert_eq!(session.fault(), Some(&MqttError::Silence));
    }

    #[test]
    fn refusals_and_nonsense_are_faults() {
        let check = |bytes: &[u8], expected: &str| {
            let mut session = Session::new(&options(), START).unwrap();
            session.receive(bytes, START);
            let fault = session.fault().map(|fault| fault.to_string()).unwrap_or_default();
            assert!(fault.contains(expected), "{fault}");
        };
        check(&[0x20, 3, 0, 0x87, 0], "refuses the connection: NotAuthorized");
        check(&[0xff, 0xff, 0xff, 0xff, 0xff], "keep to MQTT 5");
        check(&[0x20, 3, 0, 0, 0, 0x00, 0x00], "keep to MQTT 5");
        check(&[&CONNACK[..], &[0xe0, 1, 0x8e]].concat(), "disconnects: SessionTakenOver");
    }
}
