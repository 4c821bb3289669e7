//! The guest driver as a PVH kernel: boots on Xen by `xl create`, does what its command line says ([`cmdline`] has the
//! modes and options), writes lines to Xen's debug console. libxl also takes it for the firmware of an HVM guest. Built by
//! `cargo build -p guest --bin pvh --features kernel --profile kernel`.
#![no_std]
#![no_main]

mod bench;
mod cmdline;
mod console;
mod cpu;
mod entry;
mod intrinsics;
mod start_info;
mod vcpu;
mod xen;

use core::cell::Cell;
use core::panic::PanicInfo;

use cmdline::Cmdline;
use console::println;
use guest::grants::{News, Workspace};
use guest::run::{Config, Step};
use guest::scene::PIXELS;
use vcpu::Vcpu;
use xen_ioreq::Errno;

/// Where [`entry`] goes in 64-bit mode, interrupts off, with the physical address of Xen's start info.
extern "C" fn kernel_main(start_info: u64) -> ! {
    let (ram, cmdline) = start_info::take(start_info);
    cpu::init(0);
    let mut vcpu = Vcpu::new(0, ram);
    let options = Cmdline::parse(cmdline.as_str());
    println!("GUEST: domain {} seed {} mode {}", guest::Platform::domid(&vcpu).0, options.seed, options.mode);
    match options.mode {
        "hello" => {}
        "draw" => draw(&mut vcpu, &options),
        "hostile" => hostile(&mut vcpu, &options),
        "rows" => {
            start_others(start_info);
            rows(&mut vcpu, options.poweroff);
        }
        "grants" => grants(&mut vcpu),
        "bench" => bench::run(&mut vcpu, options.n),
        other => println!("GUEST: no mode {other}"),
    }
    println!("GUEST: done");
    if options.poweroff {
        xen::shutdown(xen::Reason::Poweroff);
    }
    cpu::rest()
}

/// Lets the other virtual CPUs begin, if there are any.
fn start_others(start_info: u64) {
    static STACKS: [cpu::Once<cpu::Stack>; cpu::CPUS - 1] =
        [const { cpu::Once::new(cpu::Stack::EMPTY) }; cpu::CPUS - 1];
    for (index, stack) in (1..).zip(&STACKS) {
        let registers = cpu::others_registers(stack.take().top(), [index, start_info]);
        match xen::start_vcpu(index, registers) {
            Ok(()) => println!("GUEST: cpu {index} begins"),
            Err(Errno::ENOENT) => break,
            Err(e) => println!("GUEST: failed: cpu {index}: {e}"),
        }
    }
}

/// Where [`entry`] goes on another virtual CPU, whose number this is. It performs rows, too, when a server asks it.
extern "C" fn other_main(index: u64, start_info: u64) -> ! {
    let (ram, _) = start_info::take(start_info);
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    cpu::init(index);
    rows(&mut Vcpu::new(index, ram), false);
    cpu::rest()
}

fn draw(vcpu: &mut Vcpu, options: &Cmdline<'_>) {
    let config = Config {
        seed: options.seed,
        number: options.number,
        frames: Some(options.frames),
        balloon: options.balloon,
        check_every: options.check,
        patience: options.patience,
        clear_entries: options.clear,
    };
    let drawn = match options.away {
        0 => guest::run::run(vcpu, &config, pixels()),
        pages => guest::run::run_away(vcpu, &config, pixels(), pages, &mut away),
    };
    match drawn {
        Ok(r) => {
            println!(
                "GUEST: frames {} redrawn {} resets {} checks {} checks failed {}",
                r.frames_drawn, r.damaged_redrawn, r.resets, r.checks, r.checks_failed
            );
            println!(
                "GUEST: out {} in {} starved {} irqs {} picture {:016x}",
                r.ballooned_out, r.ballooned_in, r.starved, r.interrupts, r.picture
            );
        }
        Err(e) => return println!("GUEST: failed: {e}"),
    }
    if options.give > 0 {
        give(vcpu, options.give);
    }
}

/// Is saved when its pages have been given back: stopped here, by whoever saves it, and goes on in another domain.
fn away(_: &mut Vcpu, step: Step) {
    match step {
        Step::Holding => println!("GUEST: holding"),
        Step::Gave(pages) => {
            println!("GUEST: gave {pages}");
            xen::suspend();
            println!("GUEST: resumed");
        }
        Step::Back => println!("GUEST: took them back"),
    }
}

/// Some seconds after the picture, gives pages of a framebuffer back; whoever watches from outside has the time to
/// count frames and to stop the device model before.
fn give(vcpu: &mut Vcpu, pages: usize) {
    println!("GUEST: holding");
    for _ in 0..GIVE_AFTER {
        guest::Platform::wait(vcpu);
    }
    println!("GUEST: giving {pages}");
    println!("GUEST: gave {}", guest::run::give_back(vcpu, pages));
}

fn hostile(vcpu: &mut Vcpu, options: &Cmdline<'_>) {
    match guest::hostile::run(vcpu, options.seed, options.rounds) {
        Ok(r) => {
            println!(
                "GUEST: hostile rounds {} submissions {} endless {}",
                r.rounds, r.submissions, r.endless
            );
            println!("GUEST: long {} honest {} finished {}", r.long, r.honest, r.finished);
            println!(
                "GUEST: entries {} moves {} ballooned {} lost {}",
                r.entries, r.moves, r.ballooned, r.lost
            );
        }
        Err(e) => println!("GUEST: failed: {e}"),
    }
}

/// Runs the tables that a server asks for, one line a row: its answer, and whether it was the one that must be. With
/// `once` no more than one table; else it never ends.
fn rows(vcpu: &mut Vcpu, once: bool) {
    let (passed, failed) = (Cell::new(0u32), Cell::new(0u32));
    let mut seen = |row: &guest::rows::Row, answer| match row.expect {
        Some(expect) if expect != answer => {
            failed.set(failed.get() + 1);
            println!("ROW {} {answer:#x} FAIL", row.name);
            println!("GUEST: that should have been {expect:#x}");
        }
        _ => {
            passed.set(passed.get() + 1);
            println!("ROW {} {answer:#x}", row.name);
        }
    };
    let mut done = || {
        println!("GUEST: rows {} passed, {} failed", passed.take(), failed.take());
        once
    };
    if guest::rows::serve(vcpu, &mut seen, &mut done).is_none() {
        println!("GUEST: failed: too little RAM for the rows");
    }
}

/// Performs the lines of grants when a server asks for them, and its errands, for ever: a line for each answer that is not that of the
/// sheet, and how many were.
fn grants(vcpu: &mut Vcpu) {
    static WORKSPACE: cpu::Once<Workspace> = cpu::Once::new(Workspace::NEW);
    let (mut passed, mut failed) = (0u32, 0u32);
    let mut told = |news: News<'_>| match news {
        News::Line(line, seen) if seen.is_of(line) => passed += 1,
        News::Line(line, seen) => {
            failed += 1;
            println!("GUEST: {line}");
            println!("GUEST: {seen}, not {}, marks {:#x}", line.want, line.marks);
        }
        News::End => println!("GUEST: lines {passed} passed, {failed} failed"),
    };
    if let Err(e) = guest::grants::serve(vcpu, WORKSPACE.take(), &mut told) {
        println!("GUEST: failed: {e}");
    }
}

/// Moments between the picture and what `give` gives.
const GIVE_AFTER: u32 = 500;

/// The one buffer for reference pictures.
fn pixels() -> &'static mut [u32] {
    static BUFFER: cpu::Once<[u32; PIXELS]> = cpu::Once::new([0; PIXELS]);
    BUFFER.take()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("GUEST: panic: {info}");
    xen::shutdown(xen::Reason::Crash)
}
