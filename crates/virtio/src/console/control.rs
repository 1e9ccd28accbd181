//! The messages about ports (5.3.6.2).

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::port::Port;
use crate::{Stop, VirtQueue};

const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;
/// Port, event, value.
const LENGTH: usize = 8;
/// More messages than this do not wait; a driver that asks for them over and
/// over without taking any gets no more.
const MOST_WAITING: usize = 1024;

fn message(port: usize, event: u16, value: u16, more: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(port).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    bytes.extend(event.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    bytes.extend(more);
    bytes
}

/// What the device answers to a message.
fn answers(ports: &[Arc<Port>], bytes: [u8; LENGTH]) -> Vec<Vec<u8>> {
    let [a, b, c, d, e, f, g, h] = bytes;
    let number = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let (event, value) = (u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
    if event == DEVICE_READY && value == 1 {
        return (0..ports.len()).map(|port| message(port, PORT_ADD, 1, &[])).collect();
    }
    let Some(port) = ports.get(number) else { return Vec::new() };
    match event {
        PORT_READY if value == 1 => introduce(number, port),
        PORT_OPEN => {
            port.set_open(value == 1);
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// What a driver that knows of a port is told about it.
fn introduce(number: usize, port: &Port) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    if port.is_console() {
        messages.push(message(number, CONSOLE_PORT, 1, &[]));
        if let Some((columns, rows)) = port.input().size() {
            // Linux has the two in this order.
            let size = [rows.to_le_bytes(), columns.to_le_bytes()].concat();
            messages.push(message(number, RESIZE, 0, &size));
        }
    } else {
        messages.push(message(number, PORT_NAME, 1, port.name().as_bytes()));
    }
    messages.push(message(number, PORT_OPEN, 1, &[]));
    messages
}

/// The thread of the control queues.
pub(super) fn serve(ports: &[Arc<Port>], mut receive: VirtQueue, mut transmit: VirtQueue, stop: &Stop) {
    let mut waiting = VecDeque::new();
    loop {
        transmit.drain(stop, |memory, chain| {
            let mut bytes = [0; LENGTH];
            if chain.read(memory, 0, &mut bytes) == LENGTH && waiting.len() < MOST_WAITING {
                waiting.extend(answers(ports, bytes));
            }
            Some(0)
        });
        send(&mut waiting, &mut receive);
        let bells = [receive.doorbell().clone(), transmit.doorbell().clone()];
        if stop.wait(&bells.each_ref().map(AsFd::as_fd), None).is_none() {
            return;
        }
    }
}

fn send(waiting: &mut VecDeque<Vec<u8>>, receive: &mut VirtQueue) {
    receive.doorbell().take();
    loop {
        while !waiting.is_empty()
            && let Ok(Some(chain)) = receive.pop()
        {
            let written = waiting.pop_front().map_or(0, |bytes| chain.write(receive.memory(), 0, &bytes));
            receive.push(&chain, written as u64);
        }
        receive.signal();
        if !receive.wait_for_doorbell() || waiting.is_empty() {
            return;
        }
    }
}
