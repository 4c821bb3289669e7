//! The bridge at 00:00.0 by which Linux recognises that its configuration mechanism works, where no other device model has
//! one.

use std::sync::Arc;

use super::config::{ConfigBuilder, ConfigSpace};
use super::endpoint::{AttachError, Function, PciEndpoint};
use super::{ConfigError, Sbdf};
use crate::bus::Bus;

struct HostBridge;

impl Function for HostBridge {
    fn name(&self) -> &str {
        "host bridge"
    }
}

fn config() -> Result<ConfigSpace, ConfigError> {
    // Intel 440FX, as every PC emulator has it.
    ConfigBuilder::new(0x8086, 0x1237).class(0x06, 0x00, 0x00).revision(2).build()
}

/// Puts a host bridge (8086:1237) on the bus at 0000:00:00.0.
pub fn host_bridge(bus: &Arc<Bus>) -> Result<Arc<PciEndpoint>, AttachError> {
    PciEndpoint::attach(bus, Sbdf::new(0, 0, 0, 0), config()?, Arc::new(HostBridge))
}
