//! Modules in a process of their own.

#![allow(dead_code)]

mod control;
mod wire;
