//! XSAVE, XSAVEOPT, XSAVEC and XRSTOR on bytes (SDM 1 13.7 to 13.10).

use super::legacy::{get_mxcsr, get_x87, get_xmm, put_mxcsr, put_x87, put_xmm};
use super::{Form, MXCSR_INIT, XsaveLayout, get, put};
use crate::{Exception, FpuState, X87State, Xcr0};

const HEADER: usize = 512;
const COMPACTED: u64 = 1 << 63;

/// XMM registers within the first sixteen, and ZMM registers above them.
const LOW: usize = 16;

/// The XSAVE header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// XSTATE_BV.
    pub xstate_bv: u64,
    /// XCOMP_BV.
    pub xcomp_bv: u64,
    /// Bytes 16 to 63.
    reserved: [u8; 48],
}

impl Header {
    /// The header of `area`.
    pub fn parse(area: &[u8]) -> Self {
        Self {
            xstate_bv: u64::from_le_bytes(get(area, HEADER)),
            xcomp_bv: u64::from_le_bytes(get(area, HEADER + 8)),
            reserved: get(area, HEADER + 16),
        }
    }

    /// Whether the area is in compacted format.
    pub const fn is_compacted(&self) -> bool {
        self.xcomp_bv & COMPACTED != 0
    }

    /// The checks that XRSTOR makes before it touches any state (SDM 1 13.8).
    ///
    /// # Errors
    /// #GP(0).
    pub fn check(&self, xcr0: Xcr0) -> Result<(), Exception> {
        let enabled = xcr0.bits();
        let fine = if self.is_compacted() {
            let components = self.xcomp_bv & !COMPACTED;
            components & !enabled == 0 && self.xstate_bv & !components == 0 && self.reserved == [0; 48]
        } else {
            self.xstate_bv & !enabled == 0 && self.xcomp_bv == 0 && self.reserved[..8] == [0; 8]
        };
        if fine { Ok(()) } else { Err(Exception::gp(0)) }
    }
}

/// XINUSE: the components that are not in their initial configuration, with
/// the rule of XGETBV that a changed MXCSR counts as SSE.
pub fn in_use(state: &FpuState) -> Xcr0 {
    let any = |from: usize, to: usize| {
        state.zmm[..LOW].iter().any(|zmm| zmm.0[from..to].iter().any(|&byte| byte != 0))
    };
    let mut used = Xcr0::empty();
    used.set(Xcr0::X87, state.x87 != X87State::INIT);
    used.set(Xcr0::SSE, state.mxcsr != MXCSR_INIT || any(0, 16));
    used.set(Xcr0::AVX, any(16, 32));
    used.set(Xcr0::OPMASK, state.k != [0; 8]);
    used.set(Xcr0::ZMM_HI256, any(32, 64));
    used.set(Xcr0::HI16_ZMM, state.zmm[LOW..].iter().any(|zmm| zmm.0 != [0; 64]));
    used.set(Xcr0::PKRU, state.pkru != 0);
    used
}

/// XSAVE: writes all components in `rfbm` (the requested ones that XCR0
/// enables), and their XSTATE_BV bits.
pub fn save(state: &FpuState, layout: &XsaveLayout, rfbm: Xcr0, form: Form, area: &mut [u8]) {
    save_standard(state, layout, rfbm, rfbm, form, area);
}

/// XSAVEOPT: like XSAVE, but skips components in their initial configuration.
pub fn save_optimized(state: &FpuState, layout: &XsaveLayout, rfbm: Xcr0, form: Form, area: &mut [u8]) {
    save_standard(state, layout, rfbm, rfbm & in_use(state), form, area);
}

fn save_standard(
    state: &FpuState,
    layout: &XsaveLayout,
    rfbm: Xcr0,
    written: Xcr0,
    form: Form,
    area: &mut [u8],
) {
    if rfbm.intersects(Xcr0::SSE | Xcr0::AVX) {
        put_mxcsr(state, area);
    }
    put_components(state, written, form, area, |index| layout.component(index).map(|c| c.offset));
    let old = Header::parse(area).xstate_bv;
    let new = old & !rfbm.bits() | (rfbm & in_use(state)).bits();
    put(area, HEADER, &new.to_le_bytes());
}

/// XSAVEC: writes the components of `rfbm` that are in use, in compacted
/// format, and both words of the header.
pub fn save_compacted(state: &FpuState, layout: &XsaveLayout, rfbm: Xcr0, form: Form, area: &mut [u8]) {
    let written = rfbm & in_use(state);
    if written.contains(Xcr0::SSE) {
        put_mxcsr(state, area);
    }
    put_components(state, written, form, area, |index| Some(layout.compacted_offset(rfbm, index)));
    put(area, HEADER, &written.bits().to_le_bytes());
    put(area, HEADER + 8, &(rfbm.bits() | COMPACTED).to_le_bytes());
}

fn put_components(
    state: &FpuState,
    mask: Xcr0,
    form: Form,
    area: &mut [u8],
    place: impl Fn(u32) -> Option<u32>,
) {
    if mask.contains(Xcr0::X87) {
        put_x87(&state.x87, form, area);
    }
    if mask.contains(Xcr0::SSE) {
        put_xmm(state, form, area);
    }
    for index in (2..10).filter(|&index| mask.bits() >> index & 1 != 0) {
        let Some(start) = place(index).map(|offset| offset as usize) else { continue };
        match Xcr0::from_bits_retain(1 << index) {
            Xcr0::AVX => put_slices(state, form, area, start, 16..32),
            Xcr0::ZMM_HI256 => put_slices(state, form, area, start, 32..64),
            Xcr0::HI16_ZMM if form.mode64 => {
                for (i, zmm) in state.zmm[LOW..].iter().enumerate() {
                    put(area, start + 64 * i, &zmm.0);
                }
            }
            Xcr0::OPMASK => {
                for (i, k) in state.k.iter().enumerate() {
                    put(area, start + 8 * i, &k.to_le_bytes());
                }
            }
            Xcr0::PKRU => put(area, start, &u64::from(state.pkru).to_le_bytes()),
            _ => {}
        }
    }
}

/// Writes the bytes `range` of each vector register that the mode can see.
fn put_slices(state: &FpuState, form: Form, area: &mut [u8], start: usize, range: std::ops::Range<usize>) {
    for (index, zmm) in state.zmm.iter().take(form.registers()).enumerate() {
        put(area, start + range.len() * index, &zmm.0[range.clone()]);
    }
}

/// How many bytes of memory XRSTOR reads for an area with `header`, so that
/// the engine can fetch them, and fault, before anything changes.
///
/// # Errors
/// #GP(0) as [`Header::check`], or for a compacted area while `compaction`
/// (XSAVEC) is not offered.
pub fn restore_plan(
    header: &Header,
    layout: &XsaveLayout,
    rfbm: Xcr0,
    xcr0: Xcr0,
    compaction: bool,
) -> Result<u32, Exception> {
    if header.is_compacted() && !compaction {
        return Err(Exception::gp(0));
    }
    header.check(xcr0)?;
    let wanted = rfbm & Xcr0::from_bits_retain(header.xstate_bv);
    if !header.is_compacted() {
        return Ok(layout.standard_size(wanted));
    }
    let all = Xcr0::from_bits_retain(header.xcomp_bv & !COMPACTED);
    let last = (2..10).rev().find(|&index| wanted.bits() >> index & 1 != 0);
    Ok(last.map_or(super::MIN_SIZE, |index| {
        layout.compacted_offset(all, index) + layout.component(index).map_or(0, |c| c.size)
    }))
}

/// XRSTOR: loads the components in `rfbm` that the area holds and puts the
/// others in `rfbm` into their initial configuration. `area` has at least the
/// bytes that [`restore_plan`] told; missing ones read as zero.
///
/// # Errors
/// #GP(0) as [`Header::check`], or if a reserved MXCSR bit would be set;
/// nothing is loaded then.
pub fn restore(
    state: &mut FpuState,
    layout: &XsaveLayout,
    rfbm: Xcr0,
    xcr0: Xcr0,
    form: Form,
    area: &[u8],
) -> Result<(), Exception> {
    let header = Header::parse(area);
    header.check(xcr0)?;
    let present = Xcr0::from_bits_retain(header.xstate_bv);
    let all = Xcr0::from_bits_retain(header.xcomp_bv & !COMPACTED);
    restore_mxcsr(state, &header, rfbm, area)?;
    if rfbm.contains(Xcr0::X87) {
        let held = present.contains(Xcr0::X87);
        state.x87 = if held { get_x87(area, form) } else { X87State::INIT };
    }
    if rfbm.contains(Xcr0::SSE) {
        get_xmm(state, form, if present.contains(Xcr0::SSE) { area } else { &[] });
    }
    for index in (2..10).filter(|&index| rfbm.bits() >> index & 1 != 0) {
        let offset = if header.is_compacted() {
            layout.compacted_offset(all, index)
        } else {
            layout.component(index).map_or(0, |component| component.offset)
        };
        let held = present.bits() >> index & 1 != 0;
        let bytes = if held { area.get(offset as usize..).unwrap_or(&[]) } else { &[] };
        get_component(state, index, form, bytes);
    }
    Ok(())
}

/// The standard format always holds MXCSR, for SSE and AVX alike; the compacted
/// one holds it with SSE, and else it is initialized with SSE.
fn restore_mxcsr(state: &mut FpuState, header: &Header, rfbm: Xcr0, area: &[u8]) -> Result<(), Exception> {
    let sse_held = header.xstate_bv & Xcr0::SSE.bits() != 0;
    if header.is_compacted() {
        if rfbm.contains(Xcr0::SSE) {
            state.mxcsr = if sse_held { get_mxcsr(area)? } else { MXCSR_INIT };
        }
    } else if rfbm.intersects(Xcr0::SSE | Xcr0::AVX) {
        state.mxcsr = get_mxcsr(area)?;
    }
    Ok(())
}

/// Loads one extended component from its bytes; zeros where there are none,
/// which is the initial configuration of all of them.
fn get_component(state: &mut FpuState, index: u32, form: Form, bytes: &[u8]) {
    let registers = form.registers();
    match Xcr0::from_bits_retain(1 << index) {
        Xcr0::AVX => {
            for (i, zmm) in state.zmm.iter_mut().take(registers).enumerate() {
                zmm.0[16..32].copy_from_slice(&get::<16>(bytes, 16 * i));
            }
        }
        Xcr0::ZMM_HI256 => {
            for (i, zmm) in state.zmm.iter_mut().take(registers).enumerate() {
                zmm.0[32..64].copy_from_slice(&get::<32>(bytes, 32 * i));
            }
        }
        Xcr0::HI16_ZMM if form.mode64 => {
            for (i, zmm) in state.zmm[LOW..].iter_mut().enumerate() {
                zmm.0 = get(bytes, 64 * i);
            }
        }
        Xcr0::OPMASK => {
            for (i, k) in state.k.iter_mut().enumerate() {
                *k = u64::from_le_bytes(get(bytes, 8 * i));
            }
        }
        Xcr0::PKRU => state.pkru = u32::from_le_bytes(get(bytes, 0)),
        _ => {}
    }
}
