"""`ffi` and `lib` as far as importing `flux` asks for them."""


class Anything:
    """Has every attribute, can be called, holds nothing."""

    def __init__(self, **known):
        self.__dict__.update(known)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, *_arguments, **_named):
        return Anything(decode=lambda *_: "")

    def __iter__(self):
        return iter(())

    def __int__(self):
        return 0

    __index__ = __int__

    def __or__(self, _other):
        return 0

    __ror__ = __or__


def _signature(function):
    """Of the one function that is called at import: two arguments."""
    two = [Anything(kind="pointer"), Anything(kind="int")]
    return Anything(args=two if getattr(function, "name", "") == "conf" else [])


class _Library(Anything):
    CONSTANTS = """
        FLUX_JOBID_ANY FLUX_JOB_CC FLUX_JOB_DEBUG FLUX_JOB_LOOKUP_CURRENT FLUX_JOB_NOVALIDATE
        FLUX_JOB_PRE_SIGNED FLUX_JOB_RESULT_CANCELED FLUX_JOB_RESULT_COMPLETED
        FLUX_JOB_RESULT_FAILED FLUX_JOB_RESULT_TIMEOUT FLUX_JOB_STATE_ACTIVE
        FLUX_JOB_STATE_CLEANUP FLUX_JOB_STATE_DEPEND FLUX_JOB_STATE_INACTIVE
        FLUX_JOB_STATE_PENDING FLUX_JOB_STATE_PRIORITY FLUX_JOB_STATE_RUN FLUX_JOB_STATE_RUNNING
        FLUX_JOB_STATE_SCHED FLUX_JOB_URGENCY_DEFAULT FLUX_JOB_URGENCY_EXPEDITE
        FLUX_JOB_URGENCY_HOLD FLUX_JOB_WAITABLE FLUX_KVS_NAMESPACE FLUX_KVS_NO_MERGE
        FLUX_KVS_READDIR FLUX_KVS_SYNC FLUX_KVS_TXN_COMPACT FLUX_KVS_WAITCREATE FLUX_KVS_WATCH
        FLUX_KVS_WATCH_FULL FLUX_KVS_WATCH_UNIQ FLUX_MATCHTAG_NONE FLUX_MSGTYPE_ANY
        FLUX_MSGTYPE_EVENT FLUX_MSGTYPE_REQUEST FLUX_MSGTYPE_RESPONSE FLUX_NODEID_ANY
        FLUX_POLLERR FLUX_POLLIN FLUX_POLLOUT FLUX_RPC_NORESPONSE FLUX_RPC_STREAMING
    """

    def __dir__(self):
        return self.CONSTANTS.split()

    def __getattr__(self, name):
        if name.startswith("FLUX_"):
            return 0
        return (
            Anything(name="conf") if name == "flux_conf_builtin_get" else super().__getattr__(name)
        )


ffi = Anything(
    NULL=None,
    CData=type("CData", (), {}),
    error=type("error", (Exception,), {}),
    typeof=_signature,
    def_extern=lambda *_, **__: lambda function: function,
    callback=lambda *_, **__: lambda function: function,
    string=lambda _: b"",
)
lib = _Library()
