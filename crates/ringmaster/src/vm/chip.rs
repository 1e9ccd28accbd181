//! `--irqchip`: whose the local APICs are.

use engine::{Engine, EngineKind};
use machine::InterruptChip;

use crate::cli::options::IrqChip;
use crate::exit::Failure;

/// Chooses, and says it in what follows the engine in the line on standard
/// error; nothing for engines that have no choice.
pub(super) fn choose(
    asked: Option<IrqChip>,
    engine: &dyn Engine,
) -> Result<(InterruptChip, String), Failure> {
    let own = engine.capabilities().own_interrupt_chip;
    match (asked, own) {
        (Some(IrqChip::Kernel), Err(why)) => {
            Err(Failure::host_lacks(format!("--irqchip kernel is not possible: {why}")))
        }
        (None | Some(IrqChip::Kernel), Ok(())) => {
            Ok((InterruptChip::Engine, "; local APICs in the kernel".to_owned()))
        }
        (Some(IrqChip::User), Ok(())) => {
            Ok((InterruptChip::Machine, "; local APICs in this program, as asked for".to_owned()))
        }
        (_, Err(why)) if engine.kind() == EngineKind::Kvm => {
            Ok((InterruptChip::Machine, format!("; local APICs in this program, because {why}")))
        }
        (_, Err(_)) => Ok((InterruptChip::Machine, String::new())),
    }
}

#[cfg(test)]
mod tests {
    use engine::{Capabilities, EngineError, Vcpu, VcpuConfig};

    use super::*;

    struct Fake(EngineKind, Result<(), &'static str>);

    impl Engine for Fake {
        fn kind(&self) -> EngineKind {
            self.0
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities { own_interrupt_chip: self.1, ..interpret::Interpreter.capabilities() }
        }

        fn create_vcpu(&self, config: VcpuConfig) -> Result<Box<dyn Vcpu>, EngineError> {
            interpret::Interpreter.create_vcpu(config)
        }
    }

    #[test]
    fn the_kernels_is_the_default_and_another_choice_is_said() {
        let able = Fake(EngineKind::Kvm, Ok(()));
        assert_eq!(
            choose(None, &able).unwrap(),
            (InterruptChip::Engine, "; local APICs in the kernel".into())
        );
        let (chip, line) = choose(Some(IrqChip::User), &able).unwrap();
        assert!(chip == InterruptChip::Machine && line.contains("as asked for"), "{line}");
    }

    #[test]
    fn a_kernel_without_them_is_named_and_never_silently_replaced() {
        let unable = Fake(EngineKind::Kvm, Err("it has none"));
        let failure = choose(Some(IrqChip::Kernel), &unable).unwrap_err();
        assert_eq!(failure.status().code(), 3);
        assert_eq!(failure.report(), "--irqchip kernel is not possible: it has none");
        let (chip, line) = choose(None, &unable).unwrap();
        assert!(chip == InterruptChip::Machine && line.ends_with("because it has none"), "{line}");
    }

    #[test]
    fn other_engines_have_no_choice() {
        let interpreter = Fake(EngineKind::Interpret, Err("its local APICs are the machine's"));
        assert_eq!(choose(None, &interpreter).unwrap(), (InterruptChip::Machine, String::new()));
        assert!(choose(Some(IrqChip::User), &interpreter).is_ok());
        assert!(choose(Some(IrqChip::Kernel), &interpreter).is_err());
    }
}
