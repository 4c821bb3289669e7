//! A serial port on PCI that a stock Linux guest drives by MSI (its built-in driver, as NetMos 9900: `ttyS4`).
//!
//! `serial-port --domid N [--pci-root]` plugs it into a guest that has not been unpaused yet. It prints each line that the guest
//! sends, answers it in capital letters, and sends the guest a line at SIGUSR1. Without a guest it checks itself on the model
//! hypervisor. Registers: TL16C550D data sheet.

mod harness;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use harness::{Model, Result, Slot, Whom};
use ioreq_server::pci::{Bar, ConfigBuilder, Delivery, Function, Msi, MsiLine, PciEndpoint, Sbdf, regs};
use ioreq_server::{Access, Dm, IoError, Outcome, Width};
use parking_lot::Mutex;

const SBDF: Sbdf = Sbdf::new(0, 0, 0x11, 0);
const MSI: u16 = 0x50;
/// What the port keeps of a line that does not end, and of what nobody reads.
const ROOM: usize = 4096;

/// Registers, by offset; the first two are the divisor while LCR says so.
const DATA: u64 = 0;
const IER: u64 = 1;
/// Read; FCR is written here.
const IIR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

const IER_DATA: u8 = 1 << 0;
const IER_EMPTY: u8 = 1 << 1;
const IIR_NONE: u8 = 1;
const IIR_EMPTY: u8 = 2;
const IIR_DATA: u8 = 4;
const IIR_FIFO: u8 = 0xc0;
const FCR_FIFO: u8 = 1 << 0;
const FCR_CLEAR: u8 = 1 << 1;
const LCR_DIVISOR: u8 = 1 << 7;
const MCR_LOOP: u8 = 1 << 4;
const LSR_DATA: u8 = 1 << 0;
/// Nothing is left to be sent: here everything is at once.
const LSR_EMPTY: u8 = 0x60;
/// Clear to send, data set ready, carrier: somebody is there.
const MSR_READY: u8 = 0xb0;

#[derive(Default)]
struct Uart {
    divisor: [u8; 2],
    ier: u8,
    fifo: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    /// The guest has not yet been told that it can send more.
    emptied: bool,
    line: Vec<u8>,
    to_guest: VecDeque<u8>,
}

impl Uart {
    /// The cause of the interrupt that is pending.
    fn cause(&self) -> u8 {
        if self.ier & IER_DATA != 0 && !self.to_guest.is_empty() {
            IIR_DATA
        } else if self.ier & IER_EMPTY != 0 && self.emptied {
            IIR_EMPTY
        } else {
            IIR_NONE
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        let room = ROOM.saturating_sub(self.to_guest.len());
        self.to_guest.extend(bytes.iter().take(room));
    }

    /// A byte from the guest.
    fn take(&mut self, byte: u8) {
        self.emptied = true;
        if self.mcr & MCR_LOOP != 0 {
            self.send(&[byte]);
        } else if byte == b'\n' {
            let line = std::mem::take(&mut self.line);
            println!("guest: {}", line.escape_ascii());
            self.send(&line.to_ascii_uppercase());
            self.send(b"\n");
        } else if self.line.len() < ROOM {
            self.line.push(byte);
        }
    }

    fn read(&mut self, register: u64) -> Option<u8> {
        let divisor = self.lcr & LCR_DIVISOR != 0;
        Some(match register {
            DATA | IER if divisor => self.divisor[usize::from(register == IER)],
            DATA => self.to_guest.pop_front().unwrap_or(0),
            IER => self.ier,
            IIR => {
                let cause = self.cause();
                // Telling is what ends this one.
                self.emptied &= cause != IIR_EMPTY;
                cause | self.fifo
            }
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => LSR_EMPTY | if self.to_guest.is_empty() { 0 } else { LSR_DATA },
            // In a loop the outputs are the inputs: RTS is CTS, DTR is DSR, OUT1 is RI, OUT2 is DCD.
            MSR if self.mcr & MCR_LOOP != 0 => {
                (self.mcr & 2) << 3 | (self.mcr & 1) << 5 | (self.mcr & 0xc) << 4
            }
            MSR => MSR_READY,
            SCR => self.scr,
            _ => return None,
        })
    }

    fn write(&mut self, register: u64, value: u8) {
        match register {
            DATA | IER if self.lcr & LCR_DIVISOR != 0 => self.divisor[usize::from(register == IER)] = value,
            DATA => self.take(value),
            IER => {
                self.emptied |= value & !self.ier & IER_EMPTY != 0;
                self.ier = value & 0xf;
            }
            IIR => {
                self.fifo = if value & FCR_FIFO != 0 { IIR_FIFO } else { 0 };
                if value & FCR_CLEAR != 0 {
                    self.to_guest.clear();
                }
            }
            LCR => self.lcr = value,
            MCR => self.mcr = value & 0x1f,
            SCR => self.scr = value,
            // The status registers are not for writing.
            _ => {}
        }
    }
}

struct Serial {
    dm: Dm,
    msi: MsiLine,
    uart: Mutex<Uart>,
    raised: AtomicU64,
}

impl Serial {
    fn plug(slot: &Slot<'_>) -> Result<Arc<Self>> {
        let config = ConfigBuilder::new(0x9710, 0x9900)
            .class(0x07, 0x00, 0x02)
            .subsystem(0xa000, 0x1000)
            .bar(0, Bar::io(8))
            .msi(MSI, Msi::new())
            .build()?;
        let msi = config.msi().unwrap_or_default();
        let serial =
            Arc::new(Self { dm: slot.dm.clone(), msi, uart: Mutex::default(), raised: AtomicU64::new(0) });
        PciEndpoint::attach(slot.bus, SBDF, config, serial.clone())?;
        Ok(serial)
    }

    /// Does something to the port, and tells the guest if that has brought about an interrupt. A message is no level: a driver
    /// that has one looks for causes until there is none.
    fn with<T>(&self, act: impl FnOnce(&mut Uart) -> T) -> T {
        let mut uart = self.uart.lock();
        let before = uart.cause();
        let out = act(&mut uart);
        let now = uart.cause();
        if before == IIR_NONE && now != IIR_NONE {
            // The guest may have programmed what it likes.
            match self.msi.raise(&self.dm) {
                Ok(Delivery::Injected) => drop(self.raised.fetch_add(1, Ordering::Relaxed)),
                // It polls.
                Ok(Delivery::Disabled | Delivery::Pending) => {}
                Err(e) => eprintln!("the interrupt is lost: {e}"),
            }
        }
        out
    }
}

impl Function for Serial {
    fn name(&self) -> &str {
        "serial-port"
    }

    fn bar_read(&self, access: &Access) -> Outcome<u64> {
        match access.width {
            Width::Byte => {
                self.with(|u| u.read(access.offset)).map(u64::from).ok_or(IoError::NoRegister).into()
            }
            _ => Outcome::Err(IoError::BadAccess),
        }
    }

    fn bar_write(&self, access: &Access, value: u64) -> Outcome<()> {
        let (Width::Byte, Ok(value)) = (access.width, u8::try_from(value)) else {
            return Outcome::Err(IoError::BadAccess);
        };
        self.with(|u| u.write(access.offset, value));
        Outcome::Ok(())
    }
}

/// A serial port that a stock Linux guest drives by MSI
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    whom: Whom,
}

fn main() -> Result<()> {
    let hello = |serial: &Serial| serial.with(|u| u.send(b"a signal came\n"));
    match Args::parse().whom.serve(0, Serial::plug, hello)? {
        Some(serial) => {
            println!("interrupts {}", serial.raised.load(Ordering::Relaxed));
            Ok(())
        }
        None => check(),
    }
}

/// What a guest's driver does, by a vCPU of the model.
fn check() -> Result<()> {
    const PORTS: u16 = 0xc000;
    const VECTOR: u8 = 0x51;
    let (model, serial) = Model::start(0, Serial::plug)?;
    let driver = &model.vcpu;
    let port = |register: u64| PORTS + u16::try_from(register).unwrap_or(0);
    model.configure(SBDF, regs::BAR0, PORTS.into())?;
    model.configure(SBDF, regs::COMMAND, (regs::COMMAND_IO | regs::COMMAND_MASTER).into())?;
    model.configure(SBDF, MSI + regs::MSI_ADDRESS, 0xfee0_0000)?;
    model.configure(SBDF, MSI + regs::MSI_DATA_32, VECTOR.into())?;
    model.configure(SBDF, MSI, u32::from(regs::MSI_ENABLE) << 16)?;
    let read = |register| driver.pio_read(port(register), 1);
    let write = |register, value: u8| driver.pio_write(port(register), 1, value.into());
    write(MCR, MCR_LOOP | 0xa)?;
    assert_eq!(read(MSR)? & 0xf0, 0x90, "the test by which Linux finds a port");
    write(MCR, 0)?;
    assert_eq!(driver.take_interrupt()?, None);

    write(IER, IER_EMPTY)?;
    assert_eq!(driver.take_interrupt()?, Some(VECTOR), "there is room, which is told");
    assert_eq!((read(IIR)?, read(IIR)?), (IIR_EMPTY.into(), IIR_NONE.into()), "once");
    write(IER, IER_DATA)?;
    for byte in *b"hi\n" {
        write(DATA, byte)?;
    }
    assert_eq!(driver.take_interrupt()?, Some(VECTOR), "the answer is there");
    let mut answer = Vec::new();
    while read(LSR)? & u32::from(LSR_DATA) != 0 {
        answer.push(u8::try_from(read(DATA)?)?);
    }
    assert_eq!(answer, b"HI\n");
    assert_eq!((read(IIR)?, driver.take_interrupt()?), (IIR_NONE.into(), None), "and was one interrupt");
    serial.with(|u| u.send(b"x"));
    assert_eq!(driver.take_interrupt()?, Some(VECTOR), "also with no access of the guest's");
    assert_eq!(driver.pio_read(PORTS, 2)?, 0xffff, "a register has 8 bits");
    model.stop()?;
    println!("the serial port works on the model");
    Ok(())
}

#[test]
fn a_driver_on_the_model_sends_receives_and_is_interrupted() {
    check().unwrap();
}
