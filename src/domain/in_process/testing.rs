//! Tests of a module, run where its code runs.

use super::{Caught, InProcessModule, fault_of, observe_faults};
use crate::abi::guard::{ThreadGuard, Trap};
use crate::abi::module_calls;
use crate::abi::testing::TestCase;
use crate::domain::Fault;

/// A signal that was caught in code of the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestFault {
    /// How, for people.
    pub what: String,
    /// In which of its functions.
    pub place: String,
    /// Where the instruction is, from the beginning of the process's mapping of the module on.
    pub offset: Option<u64>,
}

impl InProcessModule {
    /// The tests that it declares.
    #[must_use]
    pub fn tests(&self) -> Vec<TestCase> {
        self.open.tests()
    }

    /// Has its tests reach their host.
    pub fn bind_tests(&self) {
        self.open.bind_tests();
    }

    /// Has `told` learn of every signal that is caught in its code from now on. Only the first call of a process counts.
    pub fn tell_faults(&self, told: impl Fn(TestFault) + Send + Sync + 'static) {
        let base = self.base();
        observe_faults(Box::new(move |caught: &Caught<'_>| {
            // A call of exit(3) ends a call as it was meant to end.
            let Trap::Signal { instruction, .. } = caught.trap else { return };
            let offset = instruction.checked_sub(base).filter(|_| base != 0).map(|offset| offset as u64);
            told(TestFault { what: fault_of(caught.trap).what, place: caught.place.to_owned(), offset });
        }));
    }

    /// Runs a test on the calling thread.
    ///
    /// # Errors
    /// It did not return.
    pub fn run_test(&self, test: &TestCase) -> Result<(), Fault> {
        let _guard = ThreadGuard::new();
        let hook = self.open.test_hook(test.run);
        let call = || self.context.call(false, || module_calls::call_hook(hook, &self.context), Result::is_err);
        let outcome = self.attributed(call);
        outcome.map_err(|trap| self.fault(trap, "the test"))
    }

    /// Whether work that was given to the scheduler waits or runs.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.context.has_work()
    }
}
