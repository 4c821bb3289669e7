//! A guest driver for the vGPU.
#![no_std]
