"""Runs a file as __main__, then calls the `handler` it defines and leaves what that returned in a file."""
import json
import sys
import types


class Context:
    """What AWS Lambda passes as `context`, as far as it has a meaning here."""

    def __init__(self, fields):
        self.__dict__.update(fields)

    def get_remaining_time_in_millis(self):
        import time

        if self.deadline_ms is None:
            return None
        return max(0, int(self.deadline_ms - time.time() * 1000))


def fail(error):
    # The first frame is this program's; users look for their own.
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
    sys.exit(1)


def arguments(handler, call):
    code = getattr(handler, "__code__", None)
    if code is None:
        return (call["event"],)
    count = code.co_argcount - (1 if isinstance(handler, types.MethodType) else 0)
    if count >= 2 or code.co_flags & 0x04:
        return (call["event"], Context(call["context"]))
    return (call["event"],) if count == 1 else None


def run():
    path, event_path, result_path = sys.argv[1:4]
    sys.argv[:] = [path]
    with open(event_path, encoding="utf-8") as file:
        call = json.load(file)
    main = types.ModuleType("__main__")
    main.__file__ = path
    sys.modules["__main__"] = main
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, main.__dict__)
        handler = main.__dict__.get("handler")
        passed = None
        if call["given"] and not callable(handler):
            raise NameError("an event was given, and the code defines no `handler`")
        if callable(handler) and (call["given"] or isinstance(handler, types.FunctionType)):
            passed = arguments(handler, call)
            if passed is None and call["given"]:
                raise TypeError("handler() takes no argument; define handler(event) or handler(event, context)")
        if passed is not None:
            result = handler(*passed)
            if hasattr(result, "__await__"):
                import asyncio

                async def wait():
                    return await result

                result = asyncio.run(wait())
            text = json.dumps(result)
            with open(result_path, "w", encoding="utf-8") as file:
                file.write(text)
    except SystemExit:
        raise
    except BaseException as error:
        fail(error)


run()
