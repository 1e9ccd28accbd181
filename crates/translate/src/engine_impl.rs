//! The engine.

use engine::{Capabilities, Engine, EngineError, EngineKind, Mode, ProcessorLimits, Vcpu, VcpuConfig};

use crate::vcpu::Translated;

/// The least memory for translated code.
const MIN_CODE_CACHE: usize = 1 << 20;
/// Branches reach 2 GiB.
const MAX_CODE_CACHE: usize = 1 << 30;

/// What can be chosen about translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of translated code that are kept, for each vCPU.
    pub code_cache: usize,
    /// The most guest instructions in a block.
    pub max_block: usize,
    /// Whether blocks go on to other blocks by themselves.
    pub chain: bool,
    /// Whether executed blocks are counted, at some cost.
    pub count: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { code_cache: 128 << 20, max_block: 48, chain: true, count: false }
    }
}

/// Binary translation as an engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Translator {
    options: Options,
}

impl Translator {
    /// With other options than the default ones.
    pub const fn with(options: Options) -> Self {
        Self { options }
    }

    /// Whether this host's processor has what translated code needs; if not,
    /// what it lacks.
    ///
    /// # Errors
    /// The sentence that says what is missing.
    pub fn probe() -> Result<(), String> {
        if !std::arch::is_x86_feature_detected!("bmi2") {
            return Err(
                "the processor has no BMI2 instructions (Intel since 2013, AMD since 2015)".to_owned()
            );
        }
        Ok(())
    }
}

impl Engine for Translator {
    fn kind(&self) -> EngineKind {
        EngineKind::Translate
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            modes: &Mode::ALL,
            max_vcpus: memory::MAX_SEATS as u32,
            own_interrupt_chip: Err("its local APICs are the machine's"),
            own_hypercalls: false,
            processor: ProcessorLimits::default(),
            guest_debug: true,
            lacks: &[],
        }
    }

    fn create_vcpu(&self, config: VcpuConfig) -> Result<Box<dyn Vcpu>, EngineError> {
        let unusable = |reason| EngineError::Unusable { engine: EngineKind::Translate, reason };
        Self::probe().map_err(unusable)?;
        let size = self.options.code_cache;
        if !(MIN_CODE_CACHE..=MAX_CODE_CACHE).contains(&size) {
            let reason = format!("a code cache of {size} bytes is impossible: choose 1M to 1024M");
            return Err(EngineError::Unsupported { engine: EngineKind::Translate, reason });
        }
        Ok(Box::new(Translated::new(config, self.options)?))
    }
}
