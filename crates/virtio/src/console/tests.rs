use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use super::*;
use crate::feature;
use crate::testing::{Driver, Transport, over_each_transport};

over_each_transport! {
    a_plain_driver_uses_the_first_port,
    ports_are_added_named_and_fed_once_they_are_open,
}

struct Output(Mutex<Sender<Vec<u8>>>);

impl std::io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().send(bytes.to_vec()).unwrap();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn output() -> (Box<Output>, Receiver<Vec<u8>>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(Output(Mutex::new(sender))), receiver)
}

const LIMIT: Duration = Duration::from_secs(10);

fn a_plain_driver_uses_the_first_port(on: Transport) {
    let (output, said) = output();
    let input = PortInput::new().unwrap();
    let device = Console::new(vec![Port::console(output, Arc::clone(&input))]);
    let mut driver = Driver::new(on, device, feature::VERSION_1);
    driver.put(Driver::buffer(0), b"hello");
    driver.send(1, &[(Driver::buffer(0), 5)], &[]);
    driver.used(1);
    assert_eq!(said.recv_timeout(LIMIT).unwrap(), b"hello");
    driver.send(0, &[], &[(Driver::buffer(1), 3)]);
    assert!(input.push(b"abcd"));
    assert_eq!(driver.used(0), (0, 3));
    assert_eq!(driver.get(Driver::buffer(1), 3), b"abc");
    driver.send(0, &[], &[(Driver::buffer(1), 3)]);
    assert_eq!(driver.used(0), (0, 1));
    driver.bus.set_config(8, b"!\0\0\0");
    assert_eq!(said.recv_timeout(LIMIT).unwrap(), b"!");
    input.close();
    assert!(!input.push(b"x"));
}

fn control(driver: &mut Driver, port: u32, event: u16, value: u16) {
    let mut bytes = port.to_le_bytes().to_vec();
    bytes.extend(event.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    driver.put(Driver::buffer(8), &bytes);
    driver.send(3, &[(Driver::buffer(8), 8)], &[]);
    driver.used(3);
}

fn answer(driver: &mut Driver) -> Vec<u8> {
    driver.send(2, &[], &[(Driver::buffer(9), 64)]);
    let (_, len) = driver.used(2);
    driver.get(Driver::buffer(9), len as usize)
}

fn ports_are_added_named_and_fed_once_they_are_open(on: Transport) {
    let (console, _) = output();
    let (channel, said) = output();
    let inputs = [PortInput::new().unwrap(), PortInput::new().unwrap()];
    inputs[0].set_size(80, 25);
    let device = Console::new(vec![
        Port::console(console, Arc::clone(&inputs[0])),
        Port::channel("org.example.agent", channel, Arc::clone(&inputs[1])),
    ]);
    let mut driver = Driver::new(on, device, feature::VERSION_1 | F_MULTIPORT);
    assert_eq!(driver.config(4, 4), 2);
    control(&mut driver, u32::MAX, 0, 1);
    assert_eq!(answer(&mut driver), [0, 0, 0, 0, 1, 0, 1, 0]);
    assert_eq!(answer(&mut driver), [1, 0, 0, 0, 1, 0, 1, 0]);
    control(&mut driver, 0, 3, 1);
    assert_eq!(answer(&mut driver), [0, 0, 0, 0, 4, 0, 1, 0]);
    assert_eq!(answer(&mut driver), [0, 0, 0, 0, 5, 0, 0, 0, 25, 0, 80, 0]);
    assert_eq!(answer(&mut driver), [0, 0, 0, 0, 6, 0, 1, 0]);
    control(&mut driver, 1, 3, 1);
    assert_eq!(answer(&mut driver), b"\x01\0\0\0\x07\0\x01\0org.example.agent");
    assert_eq!(answer(&mut driver), [1, 0, 0, 0, 6, 0, 1, 0]);
    for (port, event) in [(77, 3), (u32::MAX, 6), (0, 99)] {
        control(&mut driver, port, event, 1);
    }
    driver.send(4, &[], &[(Driver::buffer(1), 100)]);
    assert!(inputs[1].push(b"request"));
    assert!(driver.used_within(4, Duration::from_millis(100)).is_none(), "nobody has opened it");
    control(&mut driver, 1, 6, 1);
    assert_eq!(driver.used(4), (0, 7));
    driver.put(Driver::buffer(0), b"reply");
    driver.send(5, &[(Driver::buffer(0), 5)], &[]);
    assert_eq!(said.recv_timeout(LIMIT).unwrap(), b"reply");
}
