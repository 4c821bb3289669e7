//! The processor: descriptor tables, exceptions, the local APIC, port and memory accesses as single instructions.
#![expect(unsafe_code, reason = "instructions that Rust has no words for")]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use guest::{Way, Width};
use xen_ioreq::abi::hvm_vcpu::vcpu_hvm_x86_64;

use crate::console::println;
use crate::xen;

/// Vectors of interrupt lines. Below the others: what is in service there must not hold off the tick.
pub(crate) const LINE_VECTORS: usize = 32;
/// The first of them.
pub(crate) const FIRST_LINE_VECTOR: u8 = 0x20;
/// Vector of the GPU's MSI.
pub(crate) const MSI_VECTOR: u8 = 0x40;
/// Bytes between the entries of line vectors.
const LINE_STUB: u64 = 64;
/// Vector of the tick that ends a wait.
const TICK_VECTOR: u8 = 0x41;
const SPURIOUS_VECTOR: u8 = 0xff;

/// Virtual CPUs that this kernel can run on.
pub(crate) const CPUS: usize = 4;

/// MSIs of each CPU since they were last taken.
pub(crate) static MSIS: [AtomicU32; CPUS] = [const { AtomicU32::new(0) }; CPUS];
/// Interrupts of lines, by CPU and vector, since they were last taken.
pub(crate) static LINES: [[AtomicU32; LINE_VECTORS]; CPUS] =
    [const { [const { AtomicU32::new(0) }; LINE_VECTORS] }; CPUS];

const X2APIC_ID: u32 = 0x802;
const X2APIC_EOI: u32 = 0x80b;
const X2APIC_SPURIOUS: u32 = 0x80f;
const X2APIC_LVT_TIMER: u32 = 0x832;
const X2APIC_LVT_LINT0: u32 = 0x835;
const X2APIC_INITIAL_COUNT: u32 = 0x838;
const X2APIC_DIVIDE: u32 = 0x83e;
const APIC_BASE: u32 = 0x1b;
const EFER: u32 = 0xc000_0080;
const LVT_MASKED: u64 = 1 << 16;
const LVT_EXTINT: u64 = 7 << 8;
/// Xen's APIC timer counts 100 MHz; divided by 16, this is 5 ms.
///
/// It is set for each wait and for that alone. Ticks that came by themselves would pile up while nobody waits, since Xen keeps
/// those that a guest missed, and the next wait would have to take all of them: with a host so slow that one takes longer than the
/// time between two, for ever.
const TICK_COUNT: u64 = 100_000_000 / 16 / 200;

/// A static that is handed out once, whole.
pub(crate) struct Once<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `take` gives the one reference to the value, and only once.
unsafe impl<T: Send> Sync for Once<T> {}

impl<T> Once<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// The value. Panics the second time.
    #[expect(clippy::mut_from_ref, reason = "only the first caller gets it")]
    pub(crate) fn take(&'static self) -> &'static mut T {
        assert!(!self.taken.swap(true, Ordering::Relaxed), "taken twice");
        // SAFETY: the swap lets one caller through, so no other reference exists.
        unsafe { &mut *self.value.get() }
    }
}

#[repr(C, align(16))]
pub(crate) struct Stack([u8; 16384]);

impl Stack {
    pub(crate) const EMPTY: Self = Self([0; 16384]);

    /// Where it begins.
    pub(crate) fn top(&self) -> u64 {
        self.0.as_ptr_range().end as u64
    }
}

#[repr(C, packed(4))]
struct Tss {
    reserved: u32,
    rsp: [u64; 3],
    reserved2: u64,
    ist: [u64; 7],
    reserved3: [u32; 2],
    rest: u32,
}

#[repr(C, packed)]
struct TableRegister {
    limit: u16,
    base: u64,
}

/// What a CPU has of its own, so that an interrupt of one is none of another's.
#[repr(C, align(16))]
struct Tables {
    stacks: [Stack; 2],
    tss: Tss,
    gdt: [u64; 5],
    idt: [[u64; 2]; 256],
}

static TABLES: [Once<Tables>; CPUS] = [const {
    Once::new(Tables {
        stacks: [const { Stack::EMPTY }; 2],
        tss: Tss { reserved: 0, rsp: [0; 3], reserved2: 0, ist: [0; 7], reserved3: [0; 2], rest: 104 << 16 },
        gdt: [0, 0x00af_9a00_0000_ffff, 0x00cf_9200_0000_ffff, 0, 0],
        idt: [[0; 2]; 256],
    })
}; CPUS];

unsafe extern "C" {
    static exception_stubs: u8;
    static line_stubs: u8;
    static msi_entry: u8;
    static tick_entry: u8;
    static cpu_start: u8;
    static spurious_entry: u8;
    /// Sleeps until an interrupt, with interrupts on meanwhile.
    safe fn sleep_until_interrupt();
}

/// Loads the tables of the CPU with that number, which calls, and starts the local APIC. Interrupts are taken in [`wait`] only.
pub(crate) fn init(index: usize) {
    let Tables { stacks, tss, gdt, idt } = TABLES[index].take();
    tss.ist = [stacks[0].top(), stacks[1].top(), 0, 0, 0, 0, 0];
    let base = core::ptr::from_ref(tss) as u64;
    gdt[3] = (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56 | 0x89 << 40 | 103;
    gdt[4] = base >> 32;

    let mut gate = |vector: usize, entry: u64, ist: u64| {
        idt[vector] = [
            (entry & 0xffff) | 8 << 16 | ist << 32 | 0x8e00 << 32 | (entry >> 16 & 0xffff) << 48,
            entry >> 32,
        ];
    };
    let stubs = &raw const exception_stubs as u64;
    (0..32).for_each(|n| gate(n, stubs + 16 * n as u64, 2));
    let lines = &raw const line_stubs as u64;
    (0..LINE_VECTORS).for_each(|n| gate(usize::from(FIRST_LINE_VECTOR) + n, lines + LINE_STUB * n as u64, 1));
    gate(MSI_VECTOR.into(), &raw const msi_entry as u64, 1);
    gate(TICK_VECTOR.into(), &raw const tick_entry as u64, 1);
    gate(SPURIOUS_VECTOR.into(), &raw const spurious_entry as u64, 1);

    let gdtr = TableRegister { limit: 39, base: core::ptr::from_ref(gdt) as u64 };
    let idtr = TableRegister { limit: 4095, base: core::ptr::from_ref(idt) as u64 };
    // SAFETY: the tables are statics, filled above; code and data selectors keep their meaning.
    unsafe {
        asm!("lgdt [{}]", "lidt [{}]", in(reg) &raw const gdtr, in(reg) &raw const idtr, options(nostack));
        asm!("ltr {:x}", in(reg) 0x18, options(nostack));
    }
    // x2APIC: bits 11 enable, 10 extended; Xen offers it to every guest
    wrmsr(APIC_BASE, rdmsr(APIC_BASE) | 3 << 10);
    wrmsr(X2APIC_SPURIOUS, 0x100 | u64::from(SPURIOUS_VECTOR));
    wrmsr(X2APIC_DIVIDE, 0b11);
    wrmsr(X2APIC_LVT_TIMER, TICK_VECTOR.into());
}

/// The registers with which another CPU begins, as those of this one are, with a stack and two arguments.
pub(crate) fn others_registers(stack: u64, arguments: [u64; 2]) -> vcpu_hvm_x86_64 {
    let (cr0, cr3, cr4): (u64, u64, u64);
    // SAFETY: reading these changes nothing.
    unsafe {
        asm!("mov {}, cr0", "mov {}, cr3", "mov {}, cr4", out(reg) cr0, out(reg) cr3, out(reg) cr4, options(nomem, nostack));
    }
    vcpu_hvm_x86_64 {
        rip: &raw const cpu_start as u64,
        rsp: stack,
        rdi: arguments[0],
        rsi: arguments[1],
        rflags: 2,
        cr0,
        cr3,
        cr4,
        efer: rdmsr(EFER),
        ..Default::default()
    }
}

/// Takes the interrupts that a CPU has had at the vector of a line.
pub(crate) fn arrived(index: usize, vector: u8) -> u32 {
    let line = usize::from(vector.wrapping_sub(FIRST_LINE_VECTOR));
    LINES[index].get(line).map_or(0, |n| n.swap(0, Ordering::Relaxed))
}

/// Ends the interrupt in service.
pub(crate) fn end_of_interrupt() {
    wrmsr(X2APIC_EOI, 0);
}

/// Lets the 8259s interrupt this CPU, or not.
pub(crate) fn set_extint(on: bool) {
    wrmsr(X2APIC_LVT_LINT0, if on { LVT_EXTINT } else { LVT_MASKED });
}

/// The local APIC's number.
pub(crate) fn apic_id() -> u64 {
    rdmsr(X2APIC_ID)
}

/// Any exception: says so, and crashes the domain.
pub(crate) extern "C" fn exception(vector: u64, error: u64, rip: u64, cr2: u64, rsp: u64) -> ! {
    println!("GUEST: exception {vector} error {error:#x}");
    println!("GUEST: rip {rip:#x} cr2 {cr2:#x} rsp {rsp:#x}");
    xen::shutdown(xen::Reason::Crash)
}

/// Sleeps until an interrupt, the tick at the latest.
pub(crate) fn wait() {
    wrmsr(X2APIC_INITIAL_COUNT, TICK_COUNT);
    sleep_until_interrupt();
    wrmsr(X2APIC_INITIAL_COUNT, 0);
}

/// Sleeps for ever, without ticks. With interrupts on: a processor halted without them counts as powered off.
pub(crate) fn rest() -> ! {
    loop {
        sleep_until_interrupt();
    }
}

fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: only called with registers that exist.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

pub(crate) fn wrmsr(msr: u32, value: u64) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    let (low, high) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    // SAFETY: only called with registers that exist, and values that leave this program running.
    unsafe { asm!("wrmsr", in("ecx") msr, in("eax") low, in("edx") high, options(nostack)) };
}

/// `out` of a byte.
pub(crate) fn out8(port: u16, value: u8) {
    // SAFETY: no port of this machine touches this program's memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// `out`.
pub(crate) fn pio_write(port: u16, width: Width, value: u32) {
    // SAFETY: as above.
    unsafe {
        match width {
            Width::B1 => asm!("out dx, al", in("dx") port, in("eax") value, options(nomem, nostack)),
            Width::B2 => asm!("out dx, ax", in("dx") port, in("eax") value, options(nomem, nostack)),
            _ => asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)),
        }
    }
}

/// `in`, zero-extended.
pub(crate) fn pio_read(port: u16, width: Width) -> u32 {
    let mut value: u32 = 0;
    // SAFETY: as above.
    unsafe {
        match width {
            Width::B1 => asm!("in al, dx", in("dx") port, inout("eax") value, options(nomem, nostack)),
            Width::B2 => asm!("in ax, dx", in("dx") port, inout("eax") value, options(nomem, nostack)),
            _ => asm!("in eax, dx", in("dx") port, inout("eax") value, options(nomem, nostack)),
        }
    }
    value
}

/// One load, zero-extended. The caller answers for `at`: mapped, and nothing that Rust owns.
pub(crate) fn load(at: u64, width: Width) -> u64 {
    let mut value: u64 = 0;
    // SAFETY: identity-mapped, see above.
    unsafe {
        match width {
            Width::B1 => asm!("mov {v:l}, [{a}]", a = in(reg) at, v = inout(reg) value, options(nostack)),
            Width::B2 => asm!("mov {v:x}, [{a}]", a = in(reg) at, v = inout(reg) value, options(nostack)),
            Width::B4 => asm!("mov {v:e}, [{a}]", a = in(reg) at, v = inout(reg) value, options(nostack)),
            Width::B8 => asm!("mov {v}, [{a}]", a = in(reg) at, v = inout(reg) value, options(nostack)),
        }
    }
    value
}

/// One store. As [`load`].
pub(crate) fn store(at: u64, width: Width, value: u64) {
    // SAFETY: identity-mapped, see `load`.
    unsafe {
        match width {
            Width::B1 => asm!("mov [{a}], {v:l}", a = in(reg) at, v = in(reg) value, options(nostack)),
            Width::B2 => asm!("mov [{a}], {v:x}", a = in(reg) at, v = in(reg) value, options(nostack)),
            Width::B4 => asm!("mov [{a}], {v:e}", a = in(reg) at, v = in(reg) value, options(nostack)),
            Width::B8 => asm!("mov [{a}], {v}", a = in(reg) at, v = in(reg) value, options(nostack)),
        }
    }
}

/// One string instruction, upwards or downwards; the direction flag is clear again after it.
macro_rules! rep {
    ($way:ident, $count:ident, $insn:literal, $($operands:tt)*) => {
        match $way {
            // SAFETY: the caller answers for the memory, see `load`.
            Way::Up => unsafe {
                asm!(concat!("rep ", $insn), inout("rcx") u64::from($count) => _, $($operands)*, options(nostack))
            },
            // SAFETY: as above.
            Way::Down => unsafe {
                asm!("std", concat!("rep ", $insn), "cld", inout("rcx") u64::from($count) => _, $($operands)*,
                    options(nostack))
            },
        }
    };
}

/// `rep ins` to `to`.
pub(crate) fn rep_ins(port: u16, to: u64, width: Width, count: u32, way: Way) {
    match width {
        Width::B1 => rep!(way, count, "insb", in("dx") port, inout("rdi") to => _),
        Width::B2 => rep!(way, count, "insw", in("dx") port, inout("rdi") to => _),
        _ => rep!(way, count, "insd", in("dx") port, inout("rdi") to => _),
    }
}

/// `rep outs` from `from`.
pub(crate) fn rep_outs(port: u16, from: u64, width: Width, count: u32, way: Way) {
    match width {
        Width::B1 => rep!(way, count, "outsb", in("dx") port, inout("rsi") from => _),
        Width::B2 => rep!(way, count, "outsw", in("dx") port, inout("rsi") from => _),
        _ => rep!(way, count, "outsd", in("dx") port, inout("rsi") from => _),
    }
}

/// `rep movs`.
pub(crate) fn rep_movs(from: u64, to: u64, width: Width, count: u32, way: Way) {
    match width {
        Width::B1 => rep!(way, count, "movsb", inout("rsi") from => _, inout("rdi") to => _),
        Width::B2 => rep!(way, count, "movsw", inout("rsi") from => _, inout("rdi") to => _),
        Width::B4 => rep!(way, count, "movsd", inout("rsi") from => _, inout("rdi") to => _),
        Width::B8 => rep!(way, count, "movsq", inout("rsi") from => _, inout("rdi") to => _),
    }
}

/// Copies `count` bytes between identity-mapped addresses, one of which a device or another domain may share.
pub(crate) fn copy(from: u64, to: u64, count: usize) {
    // SAFETY: the caller answers for both ranges, see `load`.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
}

/// `cpuid` of `leaf`: eax, ebx, ecx, edx.
pub(crate) fn cpuid(leaf: u32) -> [u32; 4] {
    let r = core::arch::x86_64::__cpuid(leaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}
