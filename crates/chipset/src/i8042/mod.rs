//! The 8042 keyboard controller with a keyboard and a mouse, and system control
//! port A (0x92).
//!
//! Bytes travel in no time: as soon as the output buffer is read, the next one
//! is there, with a new edge on its line. The A20 gate is a bit to be read
//! back; memory is never masked by it.

mod keyboard;
mod mouse;
mod scancode;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::bytes::{read_bytes, write_bytes};
use crate::{Device, EventSink, Line, MachineEvent, VmTime};
pub use keyboard::KeyboardState;
pub use mouse::MouseState;

const DATA: u16 = 0x60;
const COMMAND: u16 = 0x64;
const PORT_A: u16 = 0x92;

const STATUS_OUTPUT_FULL: u8 = 0x01;
const STATUS_SYSTEM: u8 = 0x04;
const STATUS_COMMAND: u8 = 0x08;
const STATUS_UNLOCKED: u8 = 0x10;
const STATUS_AUX: u8 = 0x20;

const MODE_KEYBOARD_IRQ: u8 = 0x01;
const MODE_AUX_IRQ: u8 = 0x02;
const MODE_SYSTEM: u8 = 0x04;
const MODE_KEYBOARD_OFF: u8 = 0x10;
const MODE_AUX_OFF: u8 = 0x20;
const MODE_TRANSLATE: u8 = 0x40;
/// What a PC's firmware leaves behind; one that runs here sets its own.
const MODE_RESET: u8 = MODE_KEYBOARD_IRQ | MODE_AUX_IRQ | MODE_SYSTEM | MODE_TRANSLATE;

const OUTPUT_NO_RESET: u8 = 0x01;
const OUTPUT_A20: u8 = 0x02;
const OUTPUT_KEYBOARD_FULL: u8 = 0x10;
const OUTPUT_AUX_FULL: u8 = 0x20;
/// Clock and data lines idle.
const OUTPUT_LINES: u8 = 0xc0;

const PORT_A_RESET: u8 = 0x01;
const PORT_A_A20: u8 = 0x02;

const RAM_SIZE: usize = 32;
/// Answers of the controller itself that wait for the output buffer.
const ANSWERS: usize = 16;

/// Where a byte in the output buffer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Source {
    Keyboard,
    Aux,
}

/// Whom the next write to port 0x60 is for, if not the keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Parameter {
    Ram(u8),
    OutputPort,
    KeyboardLoop,
    AuxLoop,
    Aux,
}

/// The state of the controller and both devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042State {
    /// Byte 0 is the command byte.
    ram: [u8; RAM_SIZE],
    output: Option<(Source, u8)>,
    /// Port 0x60 repeats it when the buffer is empty.
    last_output: u8,
    answers: VecDeque<(Source, u8)>,
    parameter: Option<Parameter>,
    last_write_was_command: bool,
    a20: bool,
    /// A release prefix (F0) was swallowed by the translation.
    released: bool,
    keyboard: KeyboardState,
    mouse: MouseState,
}

impl Default for I8042State {
    fn default() -> Self {
        let mut ram = [0; RAM_SIZE];
        ram[0] = MODE_RESET;
        Self {
            ram,
            output: None,
            last_output: 0,
            answers: VecDeque::new(),
            parameter: None,
            last_write_was_command: false,
            a20: true,
            released: false,
            keyboard: KeyboardState::default(),
            mouse: MouseState::default(),
        }
    }
}

impl I8042State {
    fn mode(&self) -> u8 {
        self.ram[0]
    }

    fn set_mode_bit(&mut self, bit: u8, on: bool) {
        self.ram[0] = self.mode() & !bit | if on { bit } else { 0 };
    }

    fn full_from(&self, source: Source) -> bool {
        self.output.is_some_and(|(from, _)| from == source)
    }

    fn status(&self) -> u8 {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        STATUS_UNLOCKED
            | bit(self.output.is_some(), STATUS_OUTPUT_FULL)
            | bit(self.mode() & MODE_SYSTEM != 0, STATUS_SYSTEM)
            | bit(self.last_write_was_command, STATUS_COMMAND)
            | bit(self.full_from(Source::Aux), STATUS_AUX)
    }

    fn output_port(&self) -> u8 {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        OUTPUT_LINES
            | OUTPUT_NO_RESET
            | bit(self.a20, OUTPUT_A20)
            | bit(self.full_from(Source::Keyboard), OUTPUT_KEYBOARD_FULL)
            | bit(self.full_from(Source::Aux), OUTPUT_AUX_FULL)
    }

    fn answer(&mut self, source: Source, byte: u8) {
        if self.answers.len() < ANSWERS {
            self.answers.push_back((source, byte));
        }
    }

    /// Moves the next byte into the output buffer, if that is empty.
    fn fill(&mut self) {
        if self.output.is_none() {
            self.output = self.next_output();
        }
        if let Some((_, byte)) = self.output {
            self.last_output = byte;
        }
    }

    fn next_output(&mut self) -> Option<(Source, u8)> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        while self.mode() & MODE_KEYBOARD_OFF == 0
            && let Some(byte) = self.keyboard.send()
        {
            if self.mode() & MODE_TRANSLATE == 0 {
                return Some((Source::Keyboard, byte));
            }
            if let Some(byte) = scancode::to_set_1(byte, &mut self.released) {
                return Some((Source::Keyboard, byte));
            }
        }
        if self.mode() & MODE_AUX_OFF != 0 {
            return None;
        }
        self.mouse.send().map(|byte| (Source::Aux, byte))
    }
}

/// The controller, its keyboard and its mouse.
pub struct I8042 {
    state: I8042State,
    keyboard_irq: Line,
    aux_irq: Line,
    events: EventSink,
}

impl I8042 {
    /// The ports that the controller decodes.
    pub const PORTS: &'static [RangeInclusive<u16>] = &[DATA..=DATA, COMMAND..=COMMAND, PORT_A..=PORT_A];

    /// A controller on IRQ 1 (`keyboard_irq`) and IRQ 12 (`aux_irq`).
    pub fn new(keyboard_irq: Line, aux_irq: Line, events: EventSink) -> Self {
        Self { state: I8042State::default(), keyboard_irq, aux_irq, events }
    }

    /// The whole state.
    pub fn state(&self) -> I8042State {
        self.state.clone()
    }

    /// Restores what [`I8042::state`] returned and drives the lines accordingly.
    pub fn set_state(&mut self, mut state: I8042State) {
        state.answers.truncate(ANSWERS);
        state.keyboard.sanitize();
        state.mouse.sanitize();
        self.state = state;
        self.drive();
    }

    /// Whether the A20 gate is open.
    pub fn a20(&self) -> bool {
        self.state.a20
    }

    /// The keyboard's lights: scroll, num and caps lock in bits 0 to 2.
    pub fn leds(&self) -> u8 {
        self.state.keyboard.leds()
    }

    /// Types the scan codes of one key event, in set 2 (a release begins with
    /// 0xF0). Returns false when the keyboard is disabled or full: the event is
    /// dropped whole.
    pub fn key(&mut self, scancodes: &[u8]) -> bool {
        let taken = self.state.keyboard.key(scancodes);
        self.update();
        taken
    }

    fn update(&mut self) {
        self.state.fill();
        self.drive();
    }

    fn drive(&self) {
        let mode = self.state.mode();
        let wants = |source, bit| self.state.full_from(source) && mode & bit != 0;
        self.keyboard_irq.set(wants(Source::Keyboard, MODE_KEYBOARD_IRQ));
        self.aux_irq.set(wants(Source::Aux, MODE_AUX_IRQ));
    }

    fn read_data(&mut self) -> u8 {
        if let Some((_, byte)) = self.state.output.take() {
            // The line falls before the next byte raises it again.
            self.drive();
            self.update();
            return byte;
        }
        self.state.last_output
    }

    fn write_data(&mut self, value: u8) {
        self.state.last_write_was_command = false;
        let state = &mut self.state;
        match state.parameter.take() {
            None => {
                state.set_mode_bit(MODE_KEYBOARD_OFF, false);
                state.keyboard.receive(value);
            }
            Some(Parameter::Ram(index)) => {
                if let Some(byte) = state.ram.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
            Some(Parameter::OutputPort) => self.write_output_port(value),
            Some(Parameter::KeyboardLoop) => state.answer(Source::Keyboard, value),
            Some(Parameter::AuxLoop) => state.answer(Source::Aux, value),
            Some(Parameter::Aux) => {
                state.set_mode_bit(MODE_AUX_OFF, false);
                state.mouse.receive(value);
            }
        }
        self.update();
    }

    fn write_output_port(&mut self, value: u8) {
        self.state.a20 = value & OUTPUT_A20 != 0;
        if value & OUTPUT_NO_RESET == 0 {
            (self.events)(MachineEvent::Reset);
        }
    }

    fn write_command(&mut self, command: u8) {
        let state = &mut self.state;
        state.last_write_was_command = true;
        state.parameter = None;
        match command {
            0x20..=0x3f => {
                let byte = state.ram.get(usize::from(command & 0x1f)).copied().unwrap_or(0);
                state.answer(Source::Keyboard, byte);
            }
            0x60..=0x7f => state.parameter = Some(Parameter::Ram(command & 0x1f)),
            0xa7 => state.set_mode_bit(MODE_AUX_OFF, true),
            0xa8 => state.set_mode_bit(MODE_AUX_OFF, false),
            // Interface tests: no fault.
            0xa9 | 0xab => state.answer(Source::Keyboard, 0x00),
            0xaa => {
                state.set_mode_bit(MODE_SYSTEM, true);
                state.answer(Source::Keyboard, 0x55);
            }
            0xad => state.set_mode_bit(MODE_KEYBOARD_OFF, true),
            0xae => state.set_mode_bit(MODE_KEYBOARD_OFF, false),
            // Input port: the keyboard is not locked.
            0xc0 => state.answer(Source::Keyboard, 0x80),
            0xd0 => state.answer(Source::Keyboard, state.output_port()),
            0xd1 => state.parameter = Some(Parameter::OutputPort),
            0xd2 => state.parameter = Some(Parameter::KeyboardLoop),
            0xd3 => state.parameter = Some(Parameter::AuxLoop),
            0xd4 => state.parameter = Some(Parameter::Aux),
            0xdd => state.a20 = false,
            0xdf => state.a20 = true,
            // Test inputs: both clocks idle low.
            0xe0 => state.answer(Source::Keyboard, 0x00),
            // Pulse the output port's bits that are zero here; bit 0 is reset.
            0xf0..=0xff if command & OUTPUT_NO_RESET == 0 => (self.events)(MachineEvent::Reset),
            _ => {}
        }
        self.update();
    }

    fn write_port_a(&mut self, value: u8) {
        self.state.a20 = value & PORT_A_A20 != 0;
        if value & PORT_A_RESET != 0 {
            (self.events)(MachineEvent::Reset);
        }
    }
}

impl fmt::Debug for I8042 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("I8042").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Device for I8042 {
    fn reset(&mut self, _now: VmTime) {
        self.state = I8042State::default();
        self.drive();
    }

    fn port_read(&mut self, _now: VmTime, port: u16, size: u8) -> u32 {
        read_bytes(port, size, |port| match port {
            DATA => self.read_data(),
            COMMAND => self.state.status(),
            PORT_A if self.state.a20 => PORT_A_A20,
            PORT_A => 0,
            _ => 0xff,
        })
    }

    fn port_write(&mut self, _now: VmTime, port: u16, size: u8, value: u32) {
        write_bytes(port, size, value, |port, byte| match port {
            DATA => self.write_data(byte),
            COMMAND => self.write_command(byte),
            PORT_A => self.write_port_a(byte),
            _ => {}
        });
    }
}
