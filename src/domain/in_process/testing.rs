//! Tests of a module, run in the process of the module.

use super::{Caught, InProcessModule, fault_of, observe_faults};
use crate::abi::guard::{ThreadGuard, Trap, last_trace};
use crate::abi::module_calls;
use crate::abi::testing::TestCase;
use crate::domain::Fault;

/// A signal caught in code of the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestFault {
    /// The description of the fault, for people.
    pub what: String,
    /// The function in which it happened.
    pub place: String,
    /// The instruction, then return addresses.
    pub frames: Vec<u64>,
    /// The address of the process's mapping of the module.
    pub base: u64,
}

impl InProcessModule {
    /// The tests that the module declares.
    #[must_use]
    pub fn tests(&self) -> Vec<TestCase> {
        self.open.tests()
    }

    /// Connects the module's tests to their host.
    pub fn bind_tests(&self) {
        self.open.bind_tests();
    }

    /// Calls `told` for every signal that is caught in the module's code from now on. Calls after the first in a process
    /// have no effect.
    pub fn tell_faults(&self, told: impl Fn(TestFault) + Send + Sync + 'static) {
        let base = self.base();
        observe_faults(Box::new(move |caught: &Caught<'_>| {
            // A call of exit(3) is an intended end of the call.
            let Trap::Signal { instruction, .. } = caught.trap else { return };
            let (what, place) = (fault_of(caught.trap).what, caught.place.to_owned());
            told(TestFault { what, place, frames: last_trace(instruction).frames, base: base as u64 });
        }));
    }

    /// Runs a test on the calling thread.
    ///
    /// # Errors
    /// The test faulted.
    pub fn run_test(&self, test: &TestCase) -> Result<(), Fault> {
        let _guard = ThreadGuard::new();
        let hook = self.open.test_hook(test.run);
        let call = || self.context.call(false, || module_calls::call_hook(hook, &self.context), Result::is_err);
        let outcome = self.attributed(call);
        outcome.map_err(|trap| self.fault(trap, "the test"))
    }

    /// Whether the scheduler has waiting or running work.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.context.has_work()
    }
}
