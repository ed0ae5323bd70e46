from cloud_sandbox import Sandbox

# 创建沙箱并执行代码
with Sandbox.create(
    base_url="http://localhost:8080",
    user_id="my-user",
) as sandbox:
    # 执行 Python 代码
    result = sandbox.run_code("print('Hello, Cloud Sandbox!')")
    print(result.stdout)  # Hello, Cloud Sandbox!

    # 执行 Shell 命令
    result = sandbox.run_command("ls -la /workspace")

    # 文件操作
    sandbox.write_file("/workspace/test.py", "x = 42")
    files = sandbox.list_files("/workspace")
