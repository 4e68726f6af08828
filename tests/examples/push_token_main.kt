// Runs examples/apps/PushToken.kt from a command line, as the other examples run themselves.

fun main(args: Array<String>) {
    val env = System.getenv()
    val registry = Registry(env["REGISTRY_URL"]!!, env["USER_ID"]!!, env["AUTH_TOKEN"]!!)
    try {
        println(
            when (args[0]) {
                "register" -> registry.register(args[1], args[2], args[3], args.getOrNull(4))
                "list" -> registry.list()
                "remove" -> registry.remove(args[1]).toString()
                else -> registry.logOut()
            }
        )
    } catch (error: SignedOutException) {
        System.err.println(error.message)
        kotlin.system.exitProcess(4)
    }
}
