@echo off
rem Deploys C files: deploy.bat FILE.c ...   CWEB_SERVER, CWEB_ADMIN_KEY and CWEB_CACERT as on other systems.
setlocal
if "%CWEB_SERVER%"=="" set CWEB_SERVER=http://127.0.0.1:8080
if "%~1"=="" (echo usage: deploy.bat FILE.c ... & exit /b 2)
set trust=
if not "%CWEB_CACERT%"=="" set trust=--cacert "%CWEB_CACERT%"
set failed=0
:next
if "%~1"=="" exit /b %failed%
curl.exe %trust% -sS --fail-with-body -H "X-API-Key: %CWEB_ADMIN_KEY%" -F "code=@%~1" "%CWEB_SERVER%/mgnt"
if errorlevel 1 (echo refused %~1 & set failed=1) else (echo deployed %~1)
shift
goto next
