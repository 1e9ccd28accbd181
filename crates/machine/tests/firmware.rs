//! A tiny firmware image runs in real mode on the reference interpreter: it
//! prints on the debug console, sleeps for a tick of the timer, prints again
//! and switches the machine off.

use std::sync::{Arc, Mutex};

use interpret::Interpreter;
use machine::{BootSource, Machine, MachineConfig, Outcome};

/// Instructions that write `value` to a byte-wide port: MOV AL; OUT.
fn out(port: u8, value: u8) -> [u8; 4] {
    [0xb0, value, 0xe6, port]
}

/// Interrupt 0x20 returns after it has ended its interrupt; code at 0xF000:F000.
fn program() -> Vec<u8> {
    const HANDLER: u16 = 0xf800;
    // XOR AX, AX; MOV DS, AX; MOV SS, AX; MOV SP, 0x7000
    let mut code = vec![0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x70];
    // MOV WORD [0x80], HANDLER; MOV WORD [0x82], CS
    let [low, high] = HANDLER.to_le_bytes();
    code.extend([0xc7, 0x06, 0x80, 0x00, low, high, 0x8c, 0x0e, 0x82, 0x00]);
    code.extend(out(0xe9, b'a'));
    let pics = [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfe)];
    let timer = [(0x43, 0x34), (0x40, 0xa9), (0x40, 4)];
    code.extend(timer.iter().chain(&pics).flat_map(|&(port, value)| out(port, value)));
    // STI; HLT; CLI
    code.extend([0xfb, 0xf4, 0xfa]);
    code.extend(out(0xe9, b'z'));
    // MOV DX, 0x604; MOV AX, 0x2000; OUT DX, AX; HLT; JMP to HLT
    code.extend([0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4, 0xeb, 0xfd]);
    code
}

fn image() -> Vec<u8> {
    let mut image = vec![0xf4; 4096];
    let mut put = |at: usize, code: &[u8]| image[at..at + code.len()].copy_from_slice(code);
    put(0, &program());
    let mut handler = [out(0xe9, b'i'), out(0x20, 0x20)].concat();
    handler.push(0xcf);
    put(0x800, &handler);
    // At the reset vector: JMP FAR 0xF000:0xF000, into the copy below 1 MiB.
    put(0xff0, &[0xea, 0x00, 0xf0, 0x00, 0xf0]);
    image
}

#[test]
fn firmware_prints_sleeps_and_powers_off() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let mut config = MachineConfig::new(&Interpreter, 2 << 20, BootSource::Firmware(image()));
    let end = Arc::clone(&log);
    config.consoles.debug = Box::new(move |byte| end.lock().unwrap().push(byte));
    let mut machine = Machine::build(config).unwrap();
    assert_eq!(machine.run(), Outcome::PoweredOff);
    assert_eq!(String::from_utf8_lossy(&log.lock().unwrap()), "aiz");
    assert!(machine.stats()[0].instructions > 20);
}
