//! The engine.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use engine::{
    Assist, Capabilities, Engine, EngineError, EngineKind, Mode, ProcessorLimits, Vcpu, VcpuConfig,
};
use memory::GuestMemory;

use crate::failure::unusable;
use crate::host::Host;
use crate::lacks::lacks;
use crate::slots::DirtyLog;
use crate::vcpu::KvmVcpu;
use crate::vm::Vm;

/// Hardware assistance as an engine.
///
/// vCPUs that are made with clones of one [`GuestMemory`] belong to one
/// virtual machine of the kernel; it lives as long as any of them.
pub struct Kvm {
    host: Arc<Host>,
    machines: Mutex<Vec<Weak<Vm>>>,
}

impl fmt::Debug for Kvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kvm").finish_non_exhaustive()
    }
}

impl Kvm {
    /// The engine on this host.
    ///
    /// # Errors
    /// If /dev/kvm cannot be used.
    pub fn new() -> Result<Self, EngineError> {
        let host = Host::open().map_err(|lacking| unusable(lacking.to_string()))?;
        Ok(Self { host: Arc::new(host), machines: Mutex::default() })
    }

    /// Logs which pages the guest with this memory writes, until the log is
    /// dropped. None if no vCPU of it exists.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn log_dirty_pages(&self, memory: &GuestMemory) -> std::io::Result<Option<DirtyLog>> {
        self.machine(memory, |_| true).map(DirtyLog::start).transpose()
    }

    /// What the processor that guests see must be content with.
    pub(crate) fn processor_limits(&self) -> ProcessorLimits {
        self.host.processor_limits()
    }

    fn machine(&self, memory: &GuestMemory, fits: impl Fn(&Vm) -> bool) -> Option<Arc<Vm>> {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        machines.retain(|machine| machine.strong_count() > 0);
        let alive = machines.iter().rev().filter_map(Weak::upgrade);
        alive.into_iter().find(|vm| vm.memory().is_same(memory) && fits(vm))
    }

    fn new_machine(
        &self,
        memory: &GuestMemory,
        local_apics: bool,
        keeps_time: bool,
    ) -> Result<Arc<Vm>, EngineError> {
        let vm = Arc::new(Vm::new(Arc::clone(&self.host), memory.clone(), local_apics, keeps_time)?);
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&vm));
        Ok(vm)
    }

    /// The machine that vCPU `id` with this memory belongs to.
    fn machine_for(&self, id: u32, memory: &GuestMemory) -> Result<Arc<Vm>, EngineError> {
        if let Some(vm) = self.machine(memory, |vm| !vm.has_vcpu(id)) {
            return Ok(vm);
        }
        self.new_machine(memory, false, false)
    }
}

impl Engine for Kvm {
    fn kind(&self) -> EngineKind {
        EngineKind::Kvm
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            modes: &Mode::ALL,
            max_vcpus: self.host.max_vcpus(),
            own_interrupt_chip: self.host.local_apics(),
            own_hypercalls: true,
            processor: self.host.processor_limits(),
            guest_debug: true,
            lacks: lacks(),
        }
    }

    fn assist(
        &self,
        memory: &GuestMemory,
        local_apics: bool,
    ) -> Result<Option<Arc<dyn Assist>>, EngineError> {
        if local_apics {
            self.host.local_apics().map_err(|why| unusable(why.to_owned()))?;
        }
        Ok(Some(self.new_machine(memory, local_apics, true)?))
    }

    fn create_vcpu(&self, config: VcpuConfig) -> Result<Box<dyn Vcpu>, EngineError> {
        let most = self.host.max_vcpus();
        if config.id >= most {
            return Err(unusable(format!("this host runs at most {most} vCPUs in one machine")));
        }
        let vm = self.machine_for(config.id, &config.memory)?;
        Ok(Box::new(KvmVcpu::new(vm, config)?))
    }
}
