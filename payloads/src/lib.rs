//! What the programs inside the host under test share with the lab outside.
//!
//! Both ends of a verified transfer generate the data themselves from a seed,
//! so neither has to trust what the other says it sent.

#![no_std]

pub mod pattern;
