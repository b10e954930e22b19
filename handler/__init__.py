"""comfyfn's core: ComfyUI as a stateless API. Knows no platform and no web framework.

    site = open_site(Settings.from_env(), embedded_allowed=False)
    handler = build_handler(site)
    await handler.start()
    async with await handler.handle({"prompt": graph}) as answer: ...

Nothing is imported here: on a cold start the engine's process is launched before the rest loads.
"""
