//! The function's interrupts: shared by the vCPUs, which set them up, and the
//! device's threads, which raise them.

use std::sync::{Arc, Mutex};

use chipset::Line;
use chipset::pci::{ConfigSpace, Msi, MsiMessage, MsiSink, Msix};

use crate::{InterruptTarget, lock};

/// No vector (4.1.4.3).
const NO_VECTOR: u16 = 0xffff;
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// The state of a function's interrupts.
pub(super) struct FunctionInterrupts {
    msix: Msix,
    msix_at: u16,
    msi: Option<Msi>,
    /// What to send while MSI is switched on.
    msi_message: Option<MsiMessage>,
    config_vector: u16,
    queue_vectors: Vec<u16>,
    isr: u8,
    line: Line,
    line_level: bool,
    line_disabled: bool,
    messages: MsiSink,
}

impl FunctionInterrupts {
    /// Adds the capabilities: a vector for each queue and one for the
    /// configuration.
    pub(super) fn new(config: &mut ConfigSpace, queues: u16, bar: u8, line: Line, messages: MsiSink) -> Self {
        let msix = Msix::new(queues.saturating_add(1));
        let msix_at = msix.add_capability(config, bar).unwrap_or(0).into();
        Self {
            msi: Msi::add(config),
            msix,
            msix_at,
            msi_message: None,
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; queues.into()],
            isr: 0,
            line,
            line_level: false,
            line_disabled: false,
            messages,
        }
    }

    fn send(&self, messages: impl IntoIterator<Item = MsiMessage>) {
        messages.into_iter().for_each(|message| (self.messages)(message));
    }

    fn raise(&mut self, vector: u16, isr: u8) {
        if self.msix.is_enabled() {
            let message = self.msix.notify(vector);
            return self.send(message);
        }
        self.isr |= isr;
        if self.msi_message.is_some() {
            return self.send(self.msi_message);
        }
        self.drive_line();
    }

    fn drive_line(&mut self) {
        let messages = self.msix.is_enabled() || self.msi_message.is_some();
        let level = self.isr != 0 && !self.line_disabled && !messages;
        if level != self.line_level {
            self.line_level = level;
            self.line.set(level);
        }
    }

    fn known(&self, vector: u16) -> u16 {
        if vector < self.msix.vectors() { vector } else { NO_VECTOR }
    }

    fn reset_device(&mut self) {
        self.config_vector = NO_VECTOR;
        self.queue_vectors.fill(NO_VECTOR);
        self.isr = 0;
        self.drive_line();
    }
}

/// [`FunctionInterrupts`] behind their lock.
pub(super) struct Shared(Mutex<FunctionInterrupts>);

impl Shared {
    pub(super) fn new(interrupts: FunctionInterrupts) -> Self {
        Self(Mutex::new(interrupts))
    }

    /// Reads the ISR status, which clears it and lowers the line.
    pub(super) fn take_isr(&self) -> u8 {
        let mut this = lock(&self.0);
        let isr = std::mem::take(&mut this.isr);
        this.drive_line();
        isr
    }

    /// Whether INTA is asserted.
    pub(super) fn line_is_asserted(&self) -> bool {
        lock(&self.0).line_level
    }

    /// The guest has written to the configuration space.
    pub(super) fn configured(&self, config: &ConfigSpace) {
        let mut this = lock(&self.0);
        let control = config.read(this.msix_at + 2, 2);
        let released = this.msix.set_control(control);
        this.send(released);
        this.msi_message = this.msi.and_then(|msi| msi.message(config));
        this.line_disabled = config.interrupt_disabled();
        this.drive_line();
    }

    pub(super) fn table_read(&self, offset: u64, data: &mut [u8]) {
        lock(&self.0).msix.read(offset, data);
    }

    pub(super) fn table_write(&self, offset: u64, data: &[u8]) {
        let mut this = lock(&self.0);
        let released = this.msix.write(offset, data);
        this.send(released);
    }

    pub(super) fn config_vector(&self) -> u16 {
        lock(&self.0).config_vector
    }

    pub(super) fn set_config_vector(&self, vector: u16) {
        let mut this = lock(&self.0);
        this.config_vector = this.known(vector);
    }

    pub(super) fn queue_vector(&self, queue: u16) -> u16 {
        lock(&self.0).queue_vectors.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR)
    }

    pub(super) fn set_queue_vector(&self, queue: u16, vector: u16) {
        let mut this = lock(&self.0);
        let vector = this.known(vector);
        if let Some(slot) = this.queue_vectors.get_mut(usize::from(queue)) {
            *slot = vector;
        }
    }

    /// The driver has reset the device; the function stays as it is.
    pub(super) fn reset_device(&self) {
        lock(&self.0).reset_device();
    }

    /// Reset of the function.
    pub(super) fn reset(&self) {
        let mut this = lock(&self.0);
        this.msix.reset();
        (this.msi_message, this.line_disabled) = (None, false);
        this.reset_device();
    }
}

impl InterruptTarget for Arc<Shared> {
    fn queue(&self, queue: u16) {
        let mut this = lock(&self.0);
        let vector = this.queue_vectors.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR);
        this.raise(vector, ISR_QUEUE);
    }

    fn config(&self) {
        let mut this = lock(&self.0);
        let vector = this.config_vector;
        this.raise(vector, ISR_CONFIG);
    }
}
