"""Every test that takes ``kernels`` runs once an instruction set that this machine has, with that set forced."""

from collections.abc import Iterator

import pytest

from attendant_engine.kernels.cpu.library import InstructionSet, KernelLibrary, load_library


@pytest.fixture(params=[isa for isa in InstructionSet if isa is not InstructionSet.NONE], ids=lambda isa: isa.name.lower())
def kernels(request: pytest.FixtureRequest) -> Iterator[KernelLibrary]:
    library = load_library()
    if library is None:
        pytest.skip("the CPU kernels are not built, or this processor has no instruction set for them")
    before, num_threads = library.instruction_set, library.num_threads
    if not library.force_instruction_set(request.param):
        pytest.skip(f"this processor lacks {request.param.name}")
    yield library
    library.force_instruction_set(before)
    library.set_num_threads(num_threads)
