//! The processor itself: sequences run in a sandboxed child process.

mod child;
mod sandbox;
mod shared;

use std::io;

use x86::cpuid::CpuidModel;
use x86::{FpuState, Vector, Xcr0};

use crate::case::Case;
use crate::layout::selector;
use crate::outcome::{Event, Outcome};
use crate::state::{Bits, Registers};
use shared::{Shared, XSAVE_SIZE};

/// How long the child may be silent before it is taken for dead.
const PATIENCE_MILLISECONDS: libc::c_int = 5_000;

/// A system call without the C library, which keeps `errno` in thread-local
/// storage.
///
/// # Safety
/// As for the call.
unsafe fn syscall(number: libc::c_long, arguments: [usize; 6]) -> isize {
    let result: isize;
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the kernel changes RAX, RCX and R11, and memory as the caller
    // allows.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// The host's processor as something that runs cases.
pub struct Native {
    shared: Shared,
    worker: Option<Worker>,
    model: CpuidModel,
    xcr0: Xcr0,
    number: u64,
}

/// The child and the pipes to it.
struct Worker {
    pid: libc::pid_t,
    requests: libc::c_int,
    answers: libc::c_int,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SAFETY: child and descriptors are ours alone.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            libc::close(self.requests);
            libc::close(self.answers);
        }
    }
}

fn pipe() -> io::Result<[libc::c_int; 2]> {
    let mut ends = [0; 2];
    // SAFETY: room for both descriptors.
    match unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } {
        0 => Ok(ends),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Worker {
    fn start(shared: &Shared) -> io::Result<Self> {
        let ([request_read, request_write], [answer_read, answer_write]) = (pipe()?, pipe()?);
        let mut stack = child::alternate_stack();
        let setup = child::Setup {
            control: shared.control_address(),
            file: shared.fd(),
            requests: request_read,
            answers: answer_write,
            stack: stack.as_mut_ptr().cast(),
            stack_size: stack.len(),
        };
        // SAFETY: the child calls nothing but the kernel.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: this is the child. It goes when its parent goes.
            unsafe {
                let die = [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0, 0, 0];
                syscall(libc::SYS_prctl, die);
                child::live(&setup)
            }
        }
        // SAFETY: the child has its own copies of these ends.
        unsafe {
            libc::close(request_read);
            libc::close(answer_write);
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        let worker = Self { pid, requests: request_write, answers: answer_read };
        if worker.wait() { Ok(worker) } else { Err(io::Error::other("the sandboxed child did not start")) }
    }

    /// Waits for the child's byte; false if it has died or hangs.
    fn wait(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.answers, events: libc::POLLIN, revents: 0 };
        let mut byte = 0_u8;
        // SAFETY: one structure, one byte.
        unsafe {
            libc::poll(&raw mut poll, 1, PATIENCE_MILLISECONDS) == 1
                && libc::read(self.answers, (&raw mut byte).cast(), 1) == 1
        }
    }

    fn request(&self) -> bool {
        // SAFETY: one byte is read from a static.
        unsafe { libc::write(self.requests, b"r".as_ptr().cast(), 1) == 1 && self.wait() }
    }
}

impl Native {
    /// The host's processor, which offers at least what `model` does.
    ///
    /// # Errors
    /// If the host refuses shared memory, a child or a sandbox for it.
    pub fn new(model: &CpuidModel) -> io::Result<Self> {
        let xcr0 = model.xcr0() & (Xcr0::X87 | Xcr0::SSE | Xcr0::AVX | Xcr0::AVX512);
        let shared = Shared::new(model.xsave_layout(), xcr0.bits())?;
        let worker = Some(Worker::start(&shared)?);
        Ok(Self { shared, worker, model: model.clone(), xcr0, number: 0 })
    }

    /// The register components that are carried.
    pub fn xcr0(&self) -> Xcr0 {
        self.xcr0
    }

    /// Runs `case` to its end.
    ///
    /// # Errors
    /// If no new child can be made for one that has died.
    pub fn run(&mut self, case: &Case) -> io::Result<Outcome> {
        let memory = case.memory();
        self.shared.window().copy_from_slice(&memory);
        self.load(&case.registers(), case.bits);
        if self.worker.is_none() {
            self.worker = Some(Worker::start(&self.shared)?);
            self.shared.window().copy_from_slice(&memory);
        }
        if !self.worker.as_ref().is_some_and(Worker::request) {
            self.worker = None;
            return Ok(Outcome { event: Event::Escape, registers: case.registers(), memory });
        }
        if self.has_foreign_mxcsr() {
            return Ok(Outcome { event: Event::Escape, registers: case.registers(), memory });
        }
        let event = self.event();
        let registers = self.registers();
        Ok(Outcome { event, registers, memory: self.shared.window().to_vec() })
    }

    fn load(&mut self, registers: &Registers, bits: Bits) {
        self.number += 1;
        let number = self.number;
        let mut image = [0; XSAVE_SIZE];
        let form = x86::xsave::Form { wide: true, mode64: true };
        x86::xsave::save(&registers.fpu, self.model.xsave_layout(), self.xcr0, form, &mut image);
        let control = self.shared.control();
        control.number = number;
        control.cs = match bits {
            Bits::B64 => selector::CODE64.into(),
            Bits::B32 => selector::CODE32.into(),
        };
        control.request.xsave = image;
        control.request.gpr = registers.gpr;
        control.request.rip = registers.rip;
        control.request.rflags = registers.rflags;
    }

    fn event(&mut self) -> Event {
        let control = self.shared.control();
        match control.signal as libc::c_int {
            libc::SIGVTALRM => Event::Endless,
            libc::SIGSYS => Event::Escape,
            _ => Event::exception(control.trap as u8, control.error, control.cr2),
        }
    }

    /// Whether the code has set a flag in MXCSR that only the host's processor
    /// has: MM, by which AMD's allow misaligned operands (APM 1 4.2.2). The
    /// guest is not offered it, so that setting it is #GP there.
    fn has_foreign_mxcsr(&mut self) -> bool {
        let image = &self.shared.control().answer.xsave;
        let mxcsr = u32::from_le_bytes([image[24], image[25], image[26], image[27]]);
        mxcsr & !x86::xsave::MXCSR_MASK != 0
    }

    fn registers(&mut self) -> Registers {
        let (layout, xcr0) = (*self.model.xsave_layout(), self.xcr0);
        let answer = &self.shared.control().answer;
        let form = x86::xsave::Form { wide: true, mode64: true };
        let mut fpu = FpuState::RESET;
        // The kernel never makes an image that cannot be loaded.
        let loaded = x86::xsave::restore(&mut fpu, &layout, xcr0, xcr0, form, &answer.xsave);
        debug_assert!(loaded.is_ok());
        Registers { gpr: answer.gpr, rip: answer.rip, rflags: answer.rflags, fpu }
    }

    /// Whether the host runs 32-bit code in a 64-bit process.
    pub fn runs_32_bit_code(&mut self) -> bool {
        // INC EAX: in 64-bit mode its byte would be a prefix of INT3.
        let case = Case::new(Bits::B32, 0, vec![0x40]);
        let before = case.registers().gpr[0] as u32;
        self.run(&case).is_ok_and(|outcome| {
            outcome.event == Event::exception(Vector::BP.0, 0, 0)
                && outcome.registers.gpr[0] as u32 == before.wrapping_add(1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::host_model;
    use crate::layout::{ABSENT, CODE, DATA_END, READ_ONLY};

    fn run(code: Vec<u8>) -> Outcome {
        let mut native = Native::new(&host_model()).unwrap();
        native.run(&Case::new(Bits::B64, 1, code)).unwrap()
    }

    #[test]
    fn nothing_changes_nothing() {
        let case = Case::new(Bits::B64, 7, vec![0x90]);
        let outcome = Native::new(&host_model()).unwrap().run(&case).unwrap();
        let mut expected = case.registers();
        expected.rip = CODE + 2;
        assert_eq!(outcome.event, Event::exception(3, 0, 0));
        assert_eq!(outcome.registers, expected);
        assert_eq!(outcome.memory, case.memory());
    }

    #[test]
    fn faults_tell_code_and_address() {
        // MOV [disp32], AL
        let store = |at: u64| {
            let mut code = vec![0x88, 0x04, 0x25];
            code.extend((at as u32).to_le_bytes());
            code
        };
        assert_eq!(run(store(ABSENT + 5)).event, Event::exception(14, 6, ABSENT + 5));
        assert_eq!(run(store(READ_ONLY)).event, Event::exception(14, 7, READ_ONLY));
        assert_eq!(run(store(DATA_END - 1)).event, Event::exception(3, 0, 0));
        // UD2, HLT
        assert_eq!(run(vec![0x0f, 0x0b]).event, Event::exception(6, 0, 0));
        assert_eq!(run(vec![0xf4]).event, Event::exception(13, 0, 0));
    }

    #[test]
    fn flags_of_mxcsr_that_the_guest_lacks_prove_nothing() {
        // PUSH 21F80h; LDMXCSR [RSP]
        let outcome = run(vec![0x68, 0x80, 0x1f, 0x02, 0x00, 0x0f, 0xae, 0x14, 0x24]);
        assert!(matches!(outcome.event, Event::Escape | Event::Exception { vector: 13, .. }));
        assert!(run(vec![0x90]).event.is_end());
    }

    #[test]
    fn segments_that_code_has_changed_are_whole_for_the_next() {
        let mut native = Native::new(&host_model()).unwrap();
        if !native.runs_32_bit_code() {
            return eprintln!("skipped: this host runs no 32-bit code");
        }
        // PUSH 0; POP DS; and then MOV AL, [CODE].
        native.run(&Case::new(Bits::B32, 1, vec![0x6a, 0, 0x1f])).unwrap();
        let mut load = vec![0xa0];
        load.extend((CODE as u32).to_le_bytes());
        let outcome = native.run(&Case::new(Bits::B32, 1, load)).unwrap();
        assert_eq!(outcome.event, Event::exception(3, 0, 0));
    }

    #[test]
    fn loops_and_system_calls_end() {
        let mut native = Native::new(&host_model()).unwrap();
        // JMP to itself; MOV EAX, 39 (getpid); SYSCALL; and life goes on.
        let endless = native.run(&Case::new(Bits::B64, 1, vec![0xeb, 0xfe])).unwrap();
        assert_eq!(endless.event, Event::Endless);
        let escape = native.run(&Case::new(Bits::B64, 1, vec![0xb8, 39, 0, 0, 0, 0x0f, 0x05])).unwrap();
        assert_eq!(escape.event, Event::Escape);
        assert!(native.run(&Case::new(Bits::B64, 1, vec![0x90])).unwrap().event.is_end());
    }
}
