//! The integration tests that count what the whole process allocates.

mod common;
mod host_memory;
mod loading_memory;
mod mutations;
mod picture_memory;

#[global_allocator]
static ALLOCATOR: common::heap::Counted = common::heap::Counted;
