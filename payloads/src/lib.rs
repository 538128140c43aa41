//! What the programs inside the host under test share with the lab outside, and
//! with each other.
//!
//! Both ends of a verified transfer generate the data themselves from a seed,
//! so neither has to trust what the other says it sent.

#![no_std]
#![deny(unsafe_code)]

#[cfg(feature = "programs")]
pub mod counter;
pub mod pattern;
