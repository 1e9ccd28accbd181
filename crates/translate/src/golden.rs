//! Golden tests: the host code of representative instructions and blocks, as
//! text, beside this file in `golden`. A change of the translator shows there
//! what it does to code. To take the present code for good:
//!
//! ```text
//! BLESS=1 cargo test -p ringmaster-translate --lib golden
//! ```

mod rows;

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use engine::{VcpuConfig, VcpuSignals};
use interpret::slow::SlowPath;
use memory::GuestMemory;
use x86::cpuid::{CpuidConfig, CpuidModel, HostFeatures};
use x86::{CpuState, Cr0, Cr4, Efer, Segment, SegmentName, Selector, Xcr0};

use crate::cache::CodeCache;
use crate::context::ContextBox;
use crate::emit::{Emitter, Source, Style};
use crate::listing::Listed;
use crate::mode::Mode;
use crate::runtime::{Runtime, Vectors};
use rows::Row;

const CODE64: u64 = 0x00af_9b00_0000_ffff;
const CODE32: u64 = 0x00cf_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// Where each block lies.
const AT: u64 = 0x40_1000;

/// A translator without a guest.
struct Bench {
    // Dropped before the context.
    slow: SlowPath,
    _context: ContextBox,
    cache: CodeCache,
    runtime: Runtime,
}

impl Bench {
    fn new(bits: u32, ring: u8) -> Self {
        let context = ContextBox::new().unwrap();
        let mut cache = CodeCache::new(1 << 20).unwrap();
        let runtime = Runtime::build(&mut cache, Vectors::Avx512);
        let config = VcpuConfig {
            id: 0,
            memory: GuestMemory::new(2 << 20).unwrap(),
            cpuid: Arc::new(CpuidModel::new(CpuidConfig::new(&HostFeatures::all(), 1_000_000_000))),
            signals: Arc::new(VcpuSignals::default()),
            trace: None,
        };
        // SAFETY: the context outlives it, and nobody else uses its TLB.
        let mut slow = unsafe { SlowPath::new(config, context.tlb()) }.unwrap();
        slow.set_state(&state(bits, ring));
        Self { slow, _context: context, cache, runtime }
    }

    fn listing(&mut self, row: &Row) -> String {
        let style = Style { max_insns: 48, counts: false };
        let mut emitter = Emitter::new(self.runtime, style);
        let mode = Mode::of(&self.slow, true).expect("a mode that is translated");
        let guest = row.bytes();
        let lin = AT + row.offset;
        let origin = self.cache.next();
        let source = Source { bytes: &guest, lin, mode, large: false };
        let made = emitter.block(source, &mut self.slow, origin).expect("a whole instruction");
        let guest = &guest[..usize::from(made.guest_len)];
        let listed = Listed {
            runtime: &self.runtime,
            mode,
            lin,
            guest,
            origin,
            host: emitter.asm.code(),
            made: &made,
        };
        listed.text()
    }
}

/// A processor as operating systems set it up.
fn state(bits: u32, ring: u8) -> CpuState {
    let mut state = CpuState::reset();
    state.cr0 = Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG;
    state.cr4 = Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE;
    state.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX | Xcr0::AVX512;
    if bits == 64 {
        state.efer = Efer::LME | Efer::LMA | Efer::NXE | Efer::SCE;
    }
    let privilege = u64::from(ring) << 45;
    let selector = |index: u16| Selector(index << 3 | u16::from(ring));
    state.segments = [Segment::from_descriptor(selector(2), DATA | privilege); 6];
    let code = if bits == 64 { CODE64 } else { CODE32 };
    *state.segment_mut(SegmentName::Cs) = Segment::from_descriptor(selector(1), code | privilege);
    state
}

/// The text for all rows of one table.
fn text(bits: u32, ring: u8, rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let listing = Bench::new(bits, ring).listing(row);
        let _ = write!(text, "## {}\n{listing}\n", row.name);
    }
    text
}

/// Compares with the file, or writes it.
fn compare(name: &str, bits: u32, ring: u8, rows: &[Row]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    let made = text(bits, ring, rows);
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        return std::fs::write(path, made).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    for (made, golden) in made.split("## ").zip(golden.split("## ")) {
        assert!(made == golden, "{name} is:\n{golden}\nbut is made:\n{made}\nBLESS=1 takes it for good");
    }
    assert_eq!(made.len(), golden.len(), "{name} has other rows; BLESS=1 takes them for good");
}

#[test]
fn golden_64_bit_programs() {
    compare("64-bit-user.txt", 64, 3, rows::USER_64);
}

#[test]
fn golden_64_bit_kernels() {
    compare("64-bit-supervisor.txt", 64, 0, rows::SUPERVISOR_64);
}

#[test]
fn golden_32_bit_code() {
    compare("32-bit.txt", 32, 0, rows::ALL_32);
}
