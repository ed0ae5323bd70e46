# 获取认证 Token
TOKEN=$(curl -s -X POST http://localhost:8080/api/v1/auth/token \
  -H "Content-Type: application/json" \
  -d '{"user_id": "test", "role": "user"}' | jq -r '.access_token')

# 获取沙箱
SANDBOX=$(curl -s -X POST http://localhost:8080/api/v1/sandbox/acquire \
  -H "Authorization: Bearer $TOKEN" | jq -r '.sandbox_id')

# 执行代码
curl -s -X POST http://localhost:8080/api/v1/execute \
  -H "Authorization: Bearer $TOKEN" \
  -H "Content-Type: application/json" \
  -d "{\"sandbox_id\": \"$SANDBOX\", \"code\": \"print('Hello!')\", \"language\": \"python\"}"

# 释放沙箱
curl -s -X POST http://localhost:8080/api/v1/sandbox/release \
  -H "Authorization: Bearer $TOKEN" \
  -H "Content-Type: application/json" \
  -d "{\"sandbox_id\": \"$SANDBOX\"}"
