import math
import freerun

def test_sync_function_with_a_result() -> None:
    with freerun.Builder().worker_threads(2).build() as rt:
        async def main():
            return await freerun.spawn_isolated(math.factorial, 5)
        assert rt.block_on(main) == 120
