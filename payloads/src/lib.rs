//! What the programs inside the host under test share with the lab outside, and
//! with each other.
//!
//! Both ends of a verified transfer generate the data themselves from a seed,
//! so neither has to trust what the other says it sent.

#![deny(unsafe_code)]

#[cfg(feature = "programs")]
pub mod counter;
#[cfg(feature = "programs")]
pub mod edu;
#[cfg(feature = "programs")]
pub mod instructions;
#[cfg(feature = "programs")]
pub mod mapping;
#[cfg(feature = "programs")]
pub mod pages;
pub mod pattern;
