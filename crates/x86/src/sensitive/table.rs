//! The table, in the manual's alphabetical order.

use iced_x86::Mnemonic as M;

use super::Class::{IoplSensitive, Privileged, Sensitive};
use super::Entry;
use super::Form::{Any, ControlRegister, DebugRegister, Far, SegmentRegister, TestRegister};
use super::Resource::{Interrupts, Io, Memory, Paging, Processor, Segments, Time, Virtualization};
use super::Sensitivity::{Behaviour, Control};

/// What most privileged instructions do at CPL > 0.
const GP: &str = "#GP(0)";
const UD: &str = "#UD";
/// What descriptor queries do.
const QUERY: &str = "consults the descriptor tables of the machine with the real CPL; ZF and the result tell";
const STORE: &str = "stores the machine's register, unless CR4.UMIP makes it #GP(0)";
const SEGMENT: &str = "loads a descriptor of the machine's tables, or faults where ring 0 would not";
const IO: &str = "#GP(0) if CPL > IOPL and the I/O permission map of the TSS forbids a port";
const BASE: &str = "reads or writes the real base while CR4.FSGSBASE is set, else #UD";
const GATE: &str = "goes through the machine's IDT; #GP if the gate's DPL is below CPL";

macro_rules! table {
    ($($name:literal [$($mnemonic:ident)+] $form:ident $class:ident $why:ident $what:ident $number:tt, $at:expr, $cite:literal;)*) => {
        /// Every privileged and sensitive instruction, in the manual's
        /// alphabetical order.
        pub static TABLE: &[Entry] = &[$(Entry {
            name: $name,
            mnemonics: &[$(M::$mnemonic),+],
            form: $form,
            class: $class,
            sensitivity: $why,
            resource: $what,
            robin_irvine: table!(@number $number),
            at_user_level: $at,
            citation: $cite,
        },)*];
    };
    (@number -) => { None };
    (@number $number:literal) => { Some($number) };
}

table! {
    "CALL (far)" [Call] Far Sensitive Control Segments 12,
        "enters the machine's gates and stacks; #GP if privileges do not allow it", "SDM 2A CALL";
    "CLAC" [Clac] Any Privileged Control Paging -, UD, "SDM 2A CLAC";
    "CLGI" [Clgi] Any Privileged Control Virtualization -, GP, "APM 3 CLGI";
    "CLI" [Cli] Any IoplSensitive Control Interrupts -,
        "#GP(0) if CPL > IOPL, but with PVI or VME clears VIF instead", "SDM 2A CLI";
    "CLTS" [Clts] Any Privileged Control Processor -, GP, "SDM 2A CLTS";
    "CPUID" [Cpuid] Any Sensitive Behaviour Processor -,
        "tells of the real processor, unless CPUID faulting is on", "SDM 2A CPUID";
    "ENCLS" [Encls] Any Privileged Control Memory -, UD, "SDM 3D ENCLS";
    "HLT" [Hlt] Any Privileged Control Processor -, GP, "SDM 2A HLT";
    "IN" [In] Any IoplSensitive Control Io -, IO, "SDM 2A IN";
    "INS" [Insb Insw Insd] Any IoplSensitive Control Io -, IO, "SDM 2A INS";
    "INT n" [Int] Any Sensitive Control Interrupts 14, GATE, "SDM 2A INT n";
    "INT1/INT3/INTO" [Int1 Int3 Into] Any Sensitive Control Interrupts -, GATE, "SDM 2A INT n";
    "INVD" [Invd] Any Privileged Control Memory -, GP, "SDM 2A INVD";
    "INVEPT" [Invept] Any Privileged Control Virtualization -, GP, "SDM 3C INVEPT";
    "INVLPG" [Invlpg] Any Privileged Control Paging -, GP, "SDM 2A INVLPG";
    "INVLPGA" [Invlpga] Any Privileged Control Paging -, GP, "APM 3 INVLPGA";
    "INVPCID" [Invpcid] Any Privileged Control Paging -, GP, "SDM 2A INVPCID";
    "INVVPID" [Invvpid] Any Privileged Control Virtualization -, GP, "SDM 3C INVVPID";
    "IRET" [Iret Iretd Iretq] Any Sensitive Control Interrupts -,
        "returns within ring 3; leaves IF alone if CPL > IOPL, and IOPL always", "SDM 2A IRET";
    "JMP (far)" [Jmp] Far Sensitive Control Segments 13,
        "uses the machine's descriptors and gates; #GP if privileges do not allow it", "SDM 2A JMP";
    "LAR" [Lar] Any Sensitive Behaviour Segments 7, QUERY, "SDM 2A LAR";
    "LDS/LES/LFS/LGS/LSS" [Lds Les Lfs Lgs Lss] Any Sensitive Control Segments -, SEGMENT, "SDM 2A LDS";
    "LGDT" [Lgdt] Any Privileged Control Segments -, GP, "SDM 2A LGDT";
    "LIDT" [Lidt] Any Privileged Control Interrupts -, GP, "SDM 2A LGDT";
    "LLDT" [Lldt] Any Privileged Control Segments -, GP, "SDM 2A LLDT";
    "LMSW" [Lmsw] Any Privileged Control Processor -, GP, "SDM 2A LMSW";
    "LSL" [Lsl] Any Sensitive Behaviour Segments 8, QUERY, "SDM 2A LSL";
    "LTR" [Ltr] Any Privileged Control Segments -, GP, "SDM 2A LTR";
    "MONITOR" [Monitor] Any Privileged Control Processor -, UD, "SDM 2B MONITOR";
    "MOV (control register)" [Mov] ControlRegister Privileged Control Processor -, GP, "SDM 2B MOV-Control Registers";
    "MOV (debug register)" [Mov] DebugRegister Privileged Control Processor -, GP, "SDM 2B MOV-Debug Registers";
    "MOV (segment register)" [Mov] SegmentRegister Sensitive Behaviour Segments 17,
        "shows the real RPL, or loads a descriptor of the machine's tables", "SDM 2B MOV";
    "MOV (test register)" [Mov] TestRegister Privileged Control Processor -, UD, "SDM 3B 23.13";
    "MWAIT" [Mwait] Any Privileged Control Processor -, UD, "SDM 2B MWAIT";
    "OUT" [Out] Any IoplSensitive Control Io -, IO, "SDM 2B OUT";
    "OUTS" [Outsb Outsw Outsd] Any IoplSensitive Control Io -, IO, "SDM 2B OUTS";
    "POP (segment register)" [Pop] SegmentRegister Sensitive Control Segments 10, SEGMENT, "SDM 2B POP";
    "POPF" [Popf Popfd Popfq] Any Sensitive Control Interrupts 6,
        "ignores a change of IF if CPL > IOPL, and of IOPL always", "SDM 2B POPF";
    "PUSH (segment register)" [Push] SegmentRegister Sensitive Behaviour Segments 11,
        "shows the real RPL of CS and SS", "SDM 2B PUSH";
    "PUSHF" [Pushf Pushfd Pushfq] Any Sensitive Behaviour Interrupts 5, "shows the real IF and IOPL", "SDM 2B PUSHF";
    "RDFSBASE/RDGSBASE" [Rdfsbase Rdgsbase] Any Sensitive Behaviour Segments -, BASE, "SDM 2B RDFSBASE";
    "RDMSR" [Rdmsr] Any Privileged Behaviour Processor -, GP, "SDM 2B RDMSR";
    "RDPID" [Rdpid] Any Sensitive Behaviour Processor -, "shows the real IA32_TSC_AUX", "SDM 2B RDPID";
    "RDPKRU" [Rdpkru] Any Sensitive Behaviour Paging -, "shows the real PKRU", "SDM 2B RDPKRU";
    "RDPMC" [Rdpmc] Any Sensitive Behaviour Time -,
        "reads the real counters while CR4.PCE is set, else #GP(0)", "SDM 2B RDPMC";
    "RDTSC" [Rdtsc] Any Sensitive Behaviour Time -,
        "reads the real counter, unless CR4.TSD makes it #GP(0)", "SDM 2B RDTSC";
    "RDTSCP" [Rdtscp] Any Sensitive Behaviour Time -,
        "reads the real counter and IA32_TSC_AUX, unless CR4.TSD makes it #GP(0)", "SDM 2B RDTSCP";
    "RET (far)" [Retf] Any Sensitive Control Segments 15,
        "cannot return to an inner ring, and to ring 3 returns silently", "SDM 2B RET";
    "RSM" [Rsm] Any Privileged Control Processor -, "#UD outside of SMM", "SDM 2B RSM";
    "SGDT" [Sgdt] Any Sensitive Behaviour Segments 1, STORE, "SDM 2B SGDT";
    "SIDT" [Sidt] Any Sensitive Behaviour Interrupts 2, STORE, "SDM 2B SIDT";
    "SKINIT" [Skinit] Any Privileged Control Processor -, GP, "APM 3 SKINIT";
    "SLDT" [Sldt] Any Sensitive Behaviour Segments 3, STORE, "SDM 2B SLDT";
    "SMSW" [Smsw] Any Sensitive Behaviour Processor 4, STORE, "SDM 2B SMSW";
    "STAC" [Stac] Any Privileged Control Paging -, UD, "SDM 2B STAC";
    "STGI" [Stgi] Any Privileged Control Virtualization -, GP, "APM 3 STGI";
    "STI" [Sti] Any IoplSensitive Control Interrupts -,
        "#GP(0) if CPL > IOPL, but with PVI or VME sets VIF instead", "SDM 2B STI";
    "STR" [Str] Any Sensitive Behaviour Segments 16, STORE, "SDM 2B STR";
    "SWAPGS" [Swapgs] Any Privileged Control Segments -, GP, "SDM 2B SWAPGS";
    "SYSCALL" [Syscall] Any Sensitive Control Processor -, "enters the machine's kernel", "SDM 2B SYSCALL";
    "SYSENTER" [Sysenter] Any Sensitive Control Processor -, "enters the machine's kernel", "SDM 2B SYSENTER";
    "SYSEXIT" [Sysexit Sysexitq] Any Privileged Control Processor -, GP, "SDM 2B SYSEXIT";
    "SYSRET" [Sysret Sysretq] Any Privileged Control Processor -, GP, "SDM 2B SYSRET";
    "VERR/VERW" [Verr Verw] Any Sensitive Behaviour Segments 9, QUERY, "SDM 2B VERR/VERW";
    "VMCALL" [Vmcall] Any Privileged Control Virtualization -, "#UD outside of VMX operation", "SDM 3C VMCALL";
    "VMCLEAR" [Vmclear] Any Privileged Control Virtualization -, GP, "SDM 3C VMCLEAR";
    "VMLAUNCH/VMRESUME" [Vmlaunch Vmresume] Any Privileged Control Virtualization -, GP, "SDM 3C VMLAUNCH";
    "VMLOAD" [Vmload] Any Privileged Control Virtualization -, GP, "APM 3 VMLOAD";
    "VMMCALL" [Vmmcall] Any Privileged Control Virtualization -, "#UD outside of a guest", "APM 3 VMMCALL";
    "VMPTRLD" [Vmptrld] Any Privileged Control Virtualization -, GP, "SDM 3C VMPTRLD";
    "VMPTRST" [Vmptrst] Any Privileged Control Virtualization -, GP, "SDM 3C VMPTRST";
    "VMREAD" [Vmread] Any Privileged Behaviour Virtualization -, GP, "SDM 3C VMREAD";
    "VMRUN" [Vmrun] Any Privileged Control Virtualization -, GP, "APM 3 VMRUN";
    "VMSAVE" [Vmsave] Any Privileged Control Virtualization -, GP, "APM 3 VMSAVE";
    "VMWRITE" [Vmwrite] Any Privileged Control Virtualization -, GP, "SDM 3C VMWRITE";
    "VMXOFF" [Vmxoff] Any Privileged Control Virtualization -, GP, "SDM 3C VMXOFF";
    "VMXON" [Vmxon] Any Privileged Control Virtualization -, GP, "SDM 3C VMXON";
    "WBINVD" [Wbinvd] Any Privileged Control Memory -, GP, "SDM 2D WBINVD";
    "WBNOINVD" [Wbnoinvd] Any Privileged Control Memory -, GP, "SDM 2D WBNOINVD";
    "WRFSBASE/WRGSBASE" [Wrfsbase Wrgsbase] Any Sensitive Control Segments -, BASE, "SDM 2D WRFSBASE";
    "WRMSR" [Wrmsr] Any Privileged Control Processor -, GP, "SDM 2D WRMSR";
    "WRPKRU" [Wrpkru] Any Sensitive Control Paging -, "changes the real PKRU", "SDM 2D WRPKRU";
    "XGETBV" [Xgetbv] Any Sensitive Behaviour Processor -, "shows the real XCR0", "SDM 2D XGETBV";
    "XRSTORS" [Xrstors Xrstors64] Any Privileged Control Processor -, GP, "SDM 2D XRSTORS";
    "XSAVES" [Xsaves Xsaves64] Any Privileged Behaviour Processor -, GP, "SDM 2D XSAVES";
    "XSETBV" [Xsetbv] Any Privileged Control Processor -, GP, "SDM 2D XSETBV";
}
