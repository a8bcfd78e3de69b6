"""`pymesh-proxy`."""

import logging
import os
import sys

from pymesh.errors import MeshError
from pymesh_proxy import hold
from pymesh_proxy.options import Options, parse


def main(argv: list[str] | None = None) -> int:
    """Run the proxy, or its agent, until it is told to stop, or a hook of its container; the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if hold.is_hook(arguments):
        return hold.main(arguments)
    import uvloop  # a hook is done before this is loaded

    options = parse(arguments)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )
    try:
        if options.validate:
            from pymesh_proxy.app import validate

            validate(options)
            print(f"{options.config} is valid")
            return 0
        return uvloop.run(_run(options))
    except MeshError as error:
        print(f"pymesh-proxy: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


async def _run(options: Options) -> int:
    if options.agent:
        from pymesh_proxy.app_health import serving
        from pymesh_proxy.control.agent import run_agent
        from pymesh_proxy.control.plane import agent_options

        async with serving(options, os.environ):
            return await run_agent(agent_options(options))
    import asyncio

    from pymesh_proxy.app import Proxy

    return await Proxy(options, asyncio.get_running_loop()).run()


if __name__ == "__main__":
    sys.exit(main())
